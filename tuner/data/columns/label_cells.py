"""Cells with several labels: `billing, delivery`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_BETWEEN = re.compile("[;,|；，、]")


def in_cells(values: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the labels that some cells have alone, and the cells that have several of these.

    Args:
        values: texts of a column.
    """
    labels = {value.strip() for value in values}
    several = [
        value
        for value in sorted(labels)
        if len(parts := [each.strip() for each in _BETWEEN.split(value)]) > 1
        and labels.issuperset(parts)
    ]
    return sorted(labels.difference(several)), several


def mostly_several(values: Sequence[str]) -> bool:
    """Return whether half of some cells, or more, have several labels."""
    _, several = in_cells(values)
    return sum(value.strip() in several for value in values) * 2 >= len(values) > 0
