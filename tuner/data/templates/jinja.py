"""The Jinja of data templates: a sandbox over a row's values, and how it prints them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuner.data.bad_rows import BadRow
from tuner.data.fields.values import YES_NO, Words, as_json, written

Render = Callable[[Mapping[str, Any]], str]

_ONE_COLUMN = re.compile(r"\{\{\s*(\w+)\s*\}\}\Z")


@cache
def environment(words: Words = YES_NO["en"]) -> jinja2.Environment:
    """Return the sandbox in which every data template runs.

    Args:
        words: what true and false are printed as.
    """
    found = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        finalize=lambda value: _printed(value, words),
    )
    # Jinja's own is for web pages: it writes <, >, & and ' as escapes.
    found.filters["tojson"] = as_json
    return found


@cache
def variables(source: str) -> frozenset[str]:
    """Return the columns that a text of a template reads.

    Raises:
        ValueError: it is not valid Jinja.
    """
    try:
        return frozenset(jinja2.meta.find_undeclared_variables(environment().parse(source)))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"not valid Jinja: {error.message} in {source!r}") from None


@cache
def compiled(source: str, words: Words) -> Render:
    """Return what renders a text of a template; it raises `BadRow` where the row does not fit it.

    Args:
        source: valid Jinja.
        words: what true and false are printed as.
    """
    if column := _ONE_COLUMN.match(source):
        name = column.group(1)
        return lambda values: written(values[name], words)
    template = environment(words).from_string(source)

    def render(values: Mapping[str, Any]) -> str:
        try:
            return template.render(values)
        except (jinja2.TemplateError, TypeError) as error:
            raise BadRow(f"the data template cannot render the row: {error}") from None

    return render


def _printed(value: Any, words: Words) -> Any:
    """What a template prints; an undefined value says what is missing itself."""
    return value if isinstance(value, jinja2.Undefined) else written(value, words)
