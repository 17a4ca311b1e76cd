"""Values of a row as text: what a data template prints of numbers, true and false, and lists."""

from __future__ import annotations

import json
from typing import Any

from tuner.data.fields.language import Language

# Words for true and false.
Words = tuple[str, str]
YES_NO: dict[Language, Words] = {"en": ("yes", "no"), "zh": ("是", "否")}
_HEAD, _BODY = ("header", "headers", "columns"), ("rows", "data", "values")
# What a table may have next to head and body without saying anything about them.
_ASIDE = {"id", "name", "types"}


def written(value: Any, words: Words = YES_NO["en"]) -> str:
    """Return a value as text, always the same: text as it is; true and false in words; a list as
    one line per item; a table, a list of lists or of mappings with the same keys, as lines of cells
    between bars; null and what is empty as nothing; everything else as JSON.

    Args:
        value: of a row.
        words: for true and false.
    """
    if isinstance(value, str):
        return value
    if value is None or value in ([], {}, ()):
        return ""
    if isinstance(value, bool):
        return words[not value]
    if lines := _lines(value):
        return "\n".join(" | ".join(written(cell, words) for cell in line) for line in lines)
    return as_json(value)


def as_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON that is readable in every script."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)


def _lines(value: Any) -> list[list[Any]]:
    """The lines of a list or a table, each a list of cells; none if a cell is no plain value."""
    if isinstance(value, dict):
        return _parts(value)
    if not isinstance(value, list | tuple) or not value:
        return []
    if all(isinstance(item, dict) for item in value):
        heads = {tuple(item) for item in value}
        (head,) = heads if len(heads) == 1 else ((),)
        lines = [list(head), *(list(item.values()) for item in value)] if head else []
    elif all(isinstance(item, list | tuple) for item in value):
        lines = [list(item) for item in value]
    else:
        lines = [[item] for item in value]
    plain = all(not isinstance(cell, list | tuple | dict) for line in lines for cell in line)
    return lines if plain else []


def _parts(value: dict[str, Any]) -> list[list[Any]]:
    """A table whose head and body have keys of their own."""
    keys = [*value.keys() - _ASIDE]
    head, body = (
        next((value[key] for key in keys if key in names and isinstance(value[key], list)), None)
        for names in (_HEAD, _BODY)
    )
    if len(keys) != 2 or head is None or not body or not all(isinstance(row, list) for row in body):
        return []
    return _lines([head, *body])
