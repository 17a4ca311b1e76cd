"""Pages of HTML and figures in SVG, from the templates next to this file."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def _escaped(value: Any) -> str:
    return value if isinstance(value, Markup) else html.escape(str(value))


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    # In place of `autoescape`, which writes quotes another way.
    finalize=_escaped,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> Markup:
    """Fill a template; every value is escaped, except what was rendered here before."""
    return Markup(_TEMPLATES.get_template(template).render(values))
