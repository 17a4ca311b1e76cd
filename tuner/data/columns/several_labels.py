"""Columns that hold any number of labels for a text: lists of them, texts with marks between them,
or one column of 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.data.columns import accounting, label_columns, one_hot
from tuner.data.columns.evidence import FEW, LABEL_LENGTH, MOST, MOST_LABELS, Evidence
from tuner.data.columns.template_match import NONE
from tuner.data.columns.ways import recipe_line, where_line
from tuner.data.fields import joined
from tuner.data.fields.several import mostly_several, told_apart
from tuner.data.fields.values import as_json
from tuner.data.templates.template import AUTO
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

# What such a column is called if its cells do not show it.
_NAMES = ("label", "labels", "tags", "categories", "classes", "topics", "标签")


@dataclass(frozen=True)
class _Labels:
    """A column of labels, of which some rows may have several.

    Attributes:
        name: of the column.
        path: to the label of a row that has one.
        labels: of such rows.
        where: their values, as a recipe chooses rows by them.
        one: how many rows have one.
    """

    name: str
    path: str
    labels: list[str]
    where: list[str]
    one: int


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
        found = named or [name for name in free if _labels(evidence, name)]
        flags = [name for name in one_hot.flags(evidence) if name in free]
        if not found and len(flags) > 1:
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


def lines(
    evidence: Evidence, given: Mapping[str, str], columns: Mapping[str, str], unread: Sequence[str]
) -> list[str]:
    """Return lines for an error where columns that nothing reads have several labels in rows: the
    recipe to learn all of them, then what learns a part, or writes them; none, if no column does.

    Args:
        evidence: what the columns hold.
        given: the keys by which a recipe names the file.
        columns: the recipe's own `columns`.
        unread: the columns in question.
    """
    texts = _texts(evidence)
    renamed = {**columns, **({"text": texts[0]} if len(texts) == 1 and texts != ["text"] else {})}
    if "text" not in renamed and "text" not in evidence.columns:
        return []
    found = next(filter(None, (_labels(evidence, name) for name in unread)), None)
    if found is None:
        flags = [name for name in one_hot.flags(evidence) if name in unread]
        several = one_hot.with_several(evidence, flags)
        return _all(evidence, given, renamed, unread, flags) if several else []
    rows = len(evidence.rows)
    first = _all(evidence, given, renamed, unread, [found.name]) if found.one < rows else []
    if len(texts) != 1 or rows < FEW:
        return first
    if found.path == found.name:
        own = {**columns, "prompt": texts[0], "completion": found.name}
        line = recipe_line({**given, "template": "prompt_completion"}, own)
        first += ["  prompts and answers, all labels of a row as text:", f"    {line}"]
    if not 1 < len(found.labels) <= MOST_LABELS:
        return first
    keys = {**given, "where": where_line({found.name: found.where})} if found.one < rows else given
    line = recipe_line({**keys, "template": "classification"}, {**renamed, "label": found.path})
    some = f" by one label, of the {found.one} of {rows} rows with one" if found.one < rows else ""
    numbers = label_columns.number_lines(found.name, found.labels, "this way")
    return [*first, f"  classification{some}:", f"    {line}", *numbers]


def _all(
    evidence: Evidence,
    given: Mapping[str, str],
    columns: Mapping[str, str],
    unread: Sequence[str],
    own: Sequence[str],
) -> list[str]:
    """The recipe that learns all the labels in these columns, and leaves others of the task out."""
    # One of several sources has no such key of its own.
    key = {"multi_label": "true"} if "train" in given else {}
    read = {*own, "text", *columns, *columns.values()}
    task = [name for name in unread if accounting.of_task(evidence, name)]
    gone = {name: NONE for name in task if name not in read}
    label = joined.one_of(own) if len(own) > 1 else own[0]
    keys = {**given, **key, "template": "classification"}
    return [
        "  all the labels of a row, with model.task: classification and data.multi_label: true:",
        f"    {recipe_line(keys, {**columns, 'label': label, **gone})}",
    ]


def _texts(evidence: Evidence) -> list[str]:
    """The columns that hold the texts that may be classified."""
    return [
        name
        for name in evidence.columns
        if accounting.of_task(evidence, name)
        and not accounting.remarks(name)
        and evidence.holds(name, ("text",))
        and not evidence.repeats(name)
    ]


def _labels(evidence: Evidence, name: str) -> _Labels | None:
    """The labels of a column with lists of them, or with several in half of its cells; else
    None."""
    values = evidence.values(name)
    lists = [value for value in values if isinstance(value, list)]
    if values and len(lists) >= MOST * len(values):
        items = [item for each in lists for item in each]
        if not all(isinstance(item, str | int) and _short(str(item)) for item in items):
            return None
        if not 1 < len({*map(str, items)}) <= max(2, len(items) // 2):
            return None
        single = [each[0] for each in lists if len(each) == 1]
        labels = sorted({str(item) for item in single})
        where = sorted({as_json([item]) for item in single})
        return _Labels(name, f"{name}.0", labels, where, len(single))
    texts = evidence.texts(name)
    if len(texts) < len(values) or not all(map(_short, texts)) or not mostly_several(texts):
        return None
    labels, _ = told_apart(texts)
    return _Labels(name, name, labels, labels, sum(text.strip() in labels for text in texts))


def _short(text: str) -> bool:
    return len(text) <= LABEL_LENGTH and "\n" not in text
