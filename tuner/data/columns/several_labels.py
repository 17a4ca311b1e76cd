"""Rows with several labels, in a list or in one cell: what of them this version can learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuner.data.columns import accounting, label_columns
from tuner.data.columns.evidence import FEW, LABEL_LENGTH, MOST, MOST_LABELS, Evidence
from tuner.data.columns.label_cells import in_cells, mostly_several
from tuner.data.columns.ways import recipe_line, where_line
from tuner.data.fields.values import as_json

NOT_LEARNED = "several labels per row are not learned by this version"


def lines(
    evidence: Evidence, given: Mapping[str, str], columns: Mapping[str, str], unread: Sequence[str]
) -> list[str]:
    """Return lines for an error where a column that nothing reads has several labels in rows: the
    recipe for the rows that have one; none, if no column does.

    Args:
        evidence: what the columns hold.
        given: the keys by which a recipe names the file.
        columns: the recipe's own `columns`.
        unread: the columns in question.
    """
    texts = [
        name
        for name in evidence.columns
        if accounting.of_task(evidence, name)
        and not accounting.remarks(name)
        and evidence.holds(name, ("text",))
        and not evidence.repeats(name)
    ]
    for name in unread if len(texts) == 1 and len(evidence.rows) >= FEW else ():
        if (found := _labels(evidence, name)) is None:
            continue
        path, labels, where, one, rows = found
        written: list[str] = []
        if path == name:
            own = {**columns, "prompt": texts[0], "completion": name}
            line = recipe_line({**given, "template": "prompt_completion"}, own)
            written = ["  prompts and answers, all labels of a row as text:", f"    {line}"]
        if len(labels) < 2:
            return written or [f"  '{name}' has several labels in most rows: {NOT_LEARNED}"]
        keys = {**given, "where": where_line({name: where})} if one < rows else {**given}
        renamed = {**columns, **({} if texts == ["text"] else {"text": texts[0]}), "label": path}
        some = f", by the {one} of {rows} rows with one label ({NOT_LEARNED})" if one < rows else ""
        line = recipe_line({**keys, "template": "classification"}, renamed)
        numbers = label_columns.number_lines(name, labels)
        return [*written, f"  classification{some}:", f"    {line}", *numbers]
    return []


def _labels(evidence: Evidence, name: str) -> tuple[str, list[str], list[str], int, int] | None:
    """The path to the label of a row that has one, the labels, the values of such rows as a recipe
    chooses rows by them, how many there are, and of how many; None if it holds no labels."""
    values = evidence.values(name)
    lists = [value for value in values if isinstance(value, list)]
    if values and len(lists) >= MOST * len(values):
        items = [item for each in lists for item in each]
        if not all(isinstance(item, str | int) and _short(str(item)) for item in items):
            return None
        if not 1 < len({*map(str, items)}) <= min(MOST_LABELS, len(items) // 2):
            return None
        single = [each[0] for each in lists if len(each) == 1]
        labels = sorted({str(item) for item in single})
        where = sorted({as_json([item]) for item in single})
        return f"{name}.0", labels, where, len(single), len(evidence.rows)
    texts = evidence.texts(name)
    if len(texts) < len(values) or not all(map(_short, texts)) or not mostly_several(texts):
        return None
    labels, _ = in_cells(texts)
    one = sum(text.strip() in labels for text in texts)
    return name, labels, labels, one, len(evidence.rows)


def _short(text: str) -> bool:
    return len(text) <= LABEL_LENGTH and "\n" not in text
