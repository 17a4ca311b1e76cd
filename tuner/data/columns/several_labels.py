"""Columns that hold any number of labels for a text: lists of them, or one column of 0 and 1 for
each label."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tuner.data.columns.evidence import Evidence
from tuner.data.columns.template_match import NONE
from tuner.data.columns.ways import recipe_line
from tuner.data.fields import joined
from tuner.data.templates.template import AUTO
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

# What such a column is called if its cells do not show it.
_NAMES = ("label", "labels", "tags", "categories", "classes", "topics", "标签")
_LONGEST = 60


def settled(data: DataSection, evidence: Evidence, given: Mapping[str, str]) -> DataSection:
    """Return a source's data section with the template and the column of its labels, if the recipe
    says that rows have any number of them and names neither.

    Args:
        data: of the source.
        evidence: what its columns hold.
        given: keys of the recipe that name the source.

    Raises:
        DataError: the labels are columns of 0 and 1, and the recipe does not say which.
    """
    if not data.multi_label or data.template != AUTO:
        return data
    update: dict[str, Any] = {"template": "classification"}
    if "label" not in data.columns:
        free = [name for name in evidence.columns if name not in data.columns.values()]
        named = [name for name in free if name.casefold() in _NAMES]
        flags = _flags(evidence, free)
        if not (found := named or _lists(evidence, free)) and len(flags) > 1:
            columns = {**data.columns, "label": joined.one_of(flags)}
            raise DataError(
                "data.multi_label: true, and the labels may be columns of 0 and 1",
                f"{', '.join(flags)}: none of them holds a row's labels alone",
                "name those that are labels:\n    "
                + recipe_line({**given, "template": "classification"}, columns),
            )
        if found:
            update["columns"] = {**data.columns, "label": found[0]}
    return data.model_copy(update=update)


def offer(evidence: Evidence, unread: Collection[str], given: Mapping[str, str]) -> list[str]:
    """Return lines of an error that say how all the labels of a row are learned; none if the
    columns that nothing reads hold no such labels."""
    found = _lists(evidence, unread)[:1]
    flags = _flags(evidence, unread)
    counts = [sum(joined.is_set(row.get(name)) is True for name in flags) for row in evidence.rows]
    if not found and len(flags) > 1 and max(counts, default=0) > 1:
        found = [joined.one_of(flags)]
    if not found:
        return []
    gone = dict.fromkeys((n for n in unread if n not in (*flags, *found)), NONE)
    # One of several sources has no such key of its own.
    key = {"multi_label": "true"} if "train" in given else {}
    line = recipe_line({**given, **key, "template": "classification"}, {"label": found[0], **gone})
    return [
        "  all the labels of a row, with model.task: classification and data.multi_label: true:",
        f"    {line}",
    ]


def _flags(evidence: Evidence, columns: Iterable[str]) -> list[str]:
    return [
        name
        for name in columns
        if evidence.values(name)
        and all(joined.is_set(row.get(name)) is not None for row in evidence.rows)
    ]


def _lists(evidence: Evidence, columns: Iterable[str]) -> list[str]:
    """The columns of lists of short texts that repeat."""
    found = []
    for name in columns:
        values = [value for row in evidence.rows if (value := row.get(name)) is not None]
        if not values or not all(isinstance(value, list) for value in values):
            continue
        items = [item for value in values for item in value]
        short = all(isinstance(item, str) and len(item) <= _LONGEST for item in items)
        if items and short and len(set(items)) <= max(2, len(items) // 2):
            found.append(name)
    return found
