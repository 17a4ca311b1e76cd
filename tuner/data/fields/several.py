"""Several labels of one row: as files write them, and as one answer: `billing, delivery`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.fields.values import as_json

# What stands between the labels of a cell.
_BETWEEN = re.compile("[;,|；，、\n]")
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
    return _BETWEEN.split(text)


def _whole(number: float) -> float:
    return int(number) if isinstance(number, float) and number.is_integer() else number


def told_apart(cells: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the labels that some cells have alone, and the cells that have several of these.

    Args:
        cells: texts of a column.
    """
    labels = {cell.strip() for cell in cells}
    several = [
        cell
        for cell in sorted(labels)
        if len(parts := [each.strip() for each in _BETWEEN.split(cell)]) > 1
        and labels.issuperset(parts)
    ]
    return sorted(labels.difference(several)), several


def mostly_several(cells: Sequence[str]) -> bool:
    """Return whether half of some cells, or more, have several labels."""
    _, several = told_apart(cells)
    return sum(cell.strip() in several for cell in cells) * 2 >= len(cells) > 0


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
