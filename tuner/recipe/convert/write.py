"""A conversion as the text of a recipe: what is not in it first, then its sections."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuner.console.redact import redact
from tuner.recipe.convert.conversion import Conversion, Setting
from tuner.recipe.schema import keys_of, sections
from tuner.schema.strict_yaml import flow

WIDTH = 98


def text(made: Conversion, tool: str, file: str) -> str:
    """Return the recipe, with comments: where it comes from, what was not translated, and why."""
    lines = [f"# From {tool}: {file}"]
    for title, listed in titled(made):
        lines += ["#", f"# {title}"]
        for each in listed:
            lines += textwrap.wrap(
                each, WIDTH, initial_indent="# - ", subsequent_indent="#   ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    for section in sections():
        keys = {key: made.keys[f"{section}.{key}"] for key in _ordered(section, made.keys)}
        if keys or section in made.keys:
            lines.append(f"{section}:" if keys else f"{section}: {{}}")
        for key, value in keys.items():
            lines += _lines(key, value, _comment(made, f"{section}.{key}"))
    return redact("\n".join(lines) + "\n")


def titled(made: Conversion) -> list[tuple[str, list[str]]]:
    """Return the lists of what has no key in the recipe, each with its title."""
    lists = (
        ("Before it trains:", made.unset),
        ("Not translated; the trained model may differ:", [_said(each) for each in made.lost]),
        ("Left out; the trained model is the same:", _by_reason(made.left_out)),
    )
    return [(title, listed) for title, listed in lists if listed]


def _said(setting: Setting) -> str:
    value = f" ({setting.value})" if setting.value else ""
    return f"{setting.name}{value}: {setting.said}"


def _by_reason(settings: Sequence[Setting]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for each in settings:
        reasons.setdefault(each.said, []).append(each.name)
    return [f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in reasons.items()]


def _ordered(section: str, keys: Mapping[str, Any]) -> list[str]:
    """Return the keys of a section in the order of the schema, a method's name first."""
    known = ["name", *keys_of(section)] if section == "method" else list(keys_of(section))
    return [key for key in dict.fromkeys(known) if f"{section}.{key}" in keys]


def _comment(made: Conversion, key: str) -> str:
    origin = made.origins.get(key, "")
    if origin == key.rpartition(".")[2] and key not in made.defaults:
        origin = ""
    default = f"default of {origin}" if key in made.defaults else origin
    return "; ".join(part for part in (default, made.remarks.get(key, "")) if part)


def _lines(key: str, value: Any, comment: str) -> Iterator[str]:
    remark = f"  # {comment}" if comment else ""
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        yield f"  {key}:{remark}"
        yield from (f"    - {flow(each)}" for each in value)
    else:
        yield f"  {key}: {flow(value)}{remark}"
