"""Several labels of one row: as files write them, and as one answer."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.fields.values import as_json

# What stands between the labels of a cell.
BETWEEN = re.compile("[;,|；，、\n]")
# The answer of a row that has no label.
NONE = "(none)"
# From this probability on a label is answered.
THRESHOLD = 0.5


def in_cell(value: Any, whole: Collection[str] = ()) -> list[str]:
    """Return the labels in a row's value, each once: a list, JSON text of one, or text with marks
    between them; none in what is empty.

    Args:
        value: of the column of the labels.
        whole: labels that may have such marks in them.

    Raises:
        BadRow: it is, or has in it, an object or a list.
    """
    if isinstance(value, str) and value.strip() not in whole:
        value = _items(value.strip())
    items = value if isinstance(value, list | tuple) else [] if value is None else [value]
    found: dict[str, None] = {}
    for item in items:
        if not isinstance(item, str | int | float):
            raise BadRow(f"a label is text or a number, not {as_json(item)[:40]}")
        if text := (item if isinstance(item, str) else as_json(_whole(item))).strip():
            found[text] = None
    return list(found)


def _items(text: str) -> list[Any]:
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, list):
            return found
    return BETWEEN.split(text)


def _whole(number: float) -> float:
    return int(number) if isinstance(number, float) and number.is_integer() else number


def as_answer(labels: Iterable[str]) -> str:
    """Return labels as the answer of a row."""
    return "\n".join(labels) or NONE


def of_answer(answer: str) -> tuple[str, ...]:
    """Return the labels that `as_answer` was called with."""
    answer = answer.strip()
    return () if answer in ("", NONE) else tuple(answer.split("\n"))


def said(labels: Iterable[str]) -> str:
    """Return labels for readers: `late; damaged`."""
    return "; ".join(labels) or NONE
