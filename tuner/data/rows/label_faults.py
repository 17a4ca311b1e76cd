"""Labels that would be learned as they are not meant: found before any row becomes an example."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tuner.console.formatting import counted
from tuner.data.bad_rows import BadRow
from tuner.data.columns.evidence import blank
from tuner.data.columns.ways import flow, recipe_line, where_line
from tuner.data.fields import joined, several
from tuner.data.rows.labels import MOST_LABELS
from tuner.data.sources.label_names import LabelNames, column_of, written
from tuner.data.sources.source import Source
from tuner.data.templates.template import AUTO, Template
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

# Where annotators did not agree, or nobody looked.
_NONE = frozenset(
    ("-", "--", "?", "n/a", "nan", "null", "unlabeled", "unlabelled", "no label", "未标注")
)
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
# More different fractions than these are no classes.
_MOST_CLASSES = 10
_SHOWN = 10


def refuse_faults(
    sources: Sequence[Source], data: DataSection, names: LabelNames, head: str
) -> None:
    """Refuse held-out rows without labels, scores in place of labels, marks that there is no label,
    several labels in one cell and one label in several spellings; none of what the recipe lists.

    Args:
        sources: with rows, their formats recognised.
        data: the recipe's data section.
        names: of the labels.
        head: what the examples are for: language, sequence or classes.

    Raises:
        DataError: with what reads the rows as they are meant.
    """
    _refuse_unlabelled(sources)
    for source in sources:
        _refuse_blank(source, _column(source, names), names.several)
    known = {*names.names, *names.names.values(), *data.labels} - {AUTO}
    found: list[Counter[str]] = []
    for source in sources:
        if (column := _column(source, names)) is not None:
            cells = (_values(row.values.get(column), names) for row in source.rows)
            found.append(Counter(each for cell in cells for each in cell if isinstance(each, str)))
            _refuse_marks(source, column, found[-1], known)
            if not known:
                _refuse_scores(source, column, found[-1], head)
                _refuse_several(source, column, found[-1])
    if not known:
        _refuse_spellings(sum(found, Counter[str]()))


def _values(value: Any, names: LabelNames) -> list[Any]:
    """The label of a row, or all that it has."""
    if not names.several:
        return [written(value)]
    try:
        return several.in_cell(value, names.labels.union(names.names))
    except BadRow:
        # Said where the row is read.
        return []


def _column(source: Source, names: LabelNames) -> str | None:
    """The file's column of a source's labels; None if its answers are none, or are checked
    elsewhere."""
    template: Template = source.fit.template
    checked = template.choice or template.cloze or template.booleans or template.labels
    name = column_of(template) if (template.label or names.all) and not checked else None
    return None if name is None else source.fit.columns.get(name, name)


def _refuse_unlabelled(sources: Sequence[Source]) -> None:
    train = [each for each in sources if "eval" not in each.given]
    labelled = [each.fit.template for each in train if each.fit.template.label]
    for source in sources:
        if "eval" not in source.given or source.data.template != AUTO:
            continue
        if source.fit.template.text is not None and labelled and len(labelled) == len(train):
            label = labelled[0].label or ""
            column = train[0].fit.columns.get(label, label)
            file = flow(source.given["eval"])
            raise DataError(
                f"the held-out rows of {source.name} have no labels",
                f"the rows of data.train have them in the column '{column}'; {source.name} has "
                f"{', '.join(source.columns)}, which would be scored as plain text",
                f"name the column with the labels: data.eval: {{source: {file}, columns: {{label: "
                "COLUMN}}; or hold out rows of data.train: data.eval: 0.1; if plain text is meant: "
                f"data.eval: {{source: {file}, template: text}}",
            )


def _refuse_blank(source: Source, column: str | None, any_number: bool) -> None:
    """Refuse held-out rows whose column of labels is empty, as in a test set without answers."""
    if column is None or "eval" not in source.given or not source.rows or any_number:
        return
    if all(blank(row.values.get(column)) for row in source.rows):
        raise DataError(
            f"the held-out rows of {source.name} have no labels",
            f"the column '{column}' is empty in each of {counted(len(source.rows), 'row')}: there "
            "is nothing to score answers by",
            "hold out rows of data.train: data.eval: 0.1 (or 0, for none); or name a file in "
            "data.eval whose rows have labels",
        )


def _refuse_several(source: Source, column: str, counts: Mapping[str, int]) -> None:
    """Refuse cells with several of the labels that other rows have one of: each list would be a
    class."""
    one, found = several.told_apart(counts)
    if not found or len(one) + len(found) > MOST_LABELS:
        return
    cells = Counter[str]()
    for value, count in counts.items():
        cells[value.strip()] += count * (value.strip() in found)
    every, left = sum(counts.values()), sum(counts.values()) - cells.total()
    shown = ", ".join(f"'{each}' ({cells[each]:,})" for each in found[:_SHOWN])
    shown += ", ..." * (len(found) > _SHOWN)
    keys = {**source.given, "where": where_line({column: one})}
    if source.data.template != AUTO:
        keys["template"] = source.data.template
    texts = [file for file in source.fit.columns.values() if file != column]
    columns = {"prompt": joined.together(texts), "completion": column}
    written_out = {**source.given, "template": "prompt_completion"}
    raise DataError(
        f"rows of {source.name} have several labels in one cell of '{column}': {shown}",
        "each such cell would be learned as a class of its own",
        "to learn all the labels of a row: model.task: classification, data.multi_label: true\n"
        f"or leave these rows out, so that {left:,} of {counted(every, 'row')} are used:\n"
        f"    {recipe_line(keys, source.data.columns)}\n"
        f"or, to learn to write all labels of a row:\n    {recipe_line(written_out, columns)}\n"
        "or write a row for each label into the file; if they are classes, list them: "
        f"data.labels: [{', '.join(map(flow, sorted([*one, *found])))}]",
    )


def _refuse_scores(source: Source, column: str, counts: Mapping[str, int], head: str) -> None:
    values = [value.strip() for value in counts]
    fractions = sum(bool(_FRACTION.fullmatch(value)) for value in values)
    numbers = all(_NUMBER.fullmatch(value) for value in values)
    if not numbers or not fractions or len(values) <= _MOST_CLASSES:
        return
    fit, ordered = source.fit, sorted(map(float, values))
    asked = [file for file in fit.columns.values() if file != column]
    columns = {"prompt": joined.together(asked), "completion": column}
    line = recipe_line({**source.given, "template": "prompt_completion"}, columns)
    head_too = " (and leave out model.task)" if head == "classes" else ""
    raise DataError(
        f"the column '{column}' of {source.name} holds scores, not labels",
        f"{len(values)} different numbers from {ordered[0]:g} to {ordered[-1]:g}: each would be a "
        "class of its own",
        f"to learn to write the number{head_too}:\n    {line}\n"
        "or write a column into the file that has a word for each range of it, such as different, "
        "related and same, and name that column: data.columns: {label: its name}",
    )


def _refuse_marks(
    source: Source, column: str, counts: Mapping[str, int], known: Collection[str]
) -> None:
    labels = Counter[str]()
    for value, count in counts.items():
        labels[value.strip()] += count
    # Next to a plus, a minus is a label.
    named = {*known, *("-" for label in labels if label == "+")}
    marks = [label for label in labels if label.casefold() in _NONE and label not in named]
    others = [label for label in labels if label not in marks]
    counted_on = [label for label in others if label != "-1"]
    # Next to 0 and 1 alone, -1 may be the third of negative, neutral and positive.
    classes = {*counted_on} >= {"0", "1", "2"} and all(map(str.isdigit, counted_on))
    if "-1" in others and "-1" not in known and classes:
        marks, others = [*marks, "-1"], counted_on
    if not marks or len(others) > MOST_LABELS:
        return
    rows, every = sum(labels[label] for label in marks), sum(labels.values())
    keys = {**source.given, "where": where_line({column: sorted(others)})}
    columns = source.data.columns
    if source.data.template != AUTO:
        keys["template"] = source.data.template
    leave = f"leave them out:\n    {recipe_line(keys, columns)}"
    if not others:
        leave = "hold out rows of data.train in their place: data.eval: 0.1"
    raise DataError(
        f"the label {' or '.join(repr(each) for each in marks)} of {rows:,} of "
        f"{counted(every, 'row')} of {source.name} says that there is none",
        "it would be learned as a class",
        f"{leave}\nif it is a class, list it with the others: data.labels: "
        f"[{', '.join(flow(label) for label in sorted([*others, *marks]))}]",
    )


def _refuse_spellings(counts: Mapping[str, int]) -> None:
    if len(counts) > MOST_LABELS:
        return
    groups: dict[str, list[str]] = {}
    for value in sorted(counts, key=lambda each: (-counts[each], each)):
        groups.setdefault(" ".join(value.split()).casefold(), []).append(value)
    twice = [values for values in groups.values() if len(values) > 1]
    if not twice:
        return
    shown = "; ".join(
        " and ".join(f"'{value}' ({counts[value]:,})" for value in values[:_SHOWN])
        for values in twice[:_SHOWN]
    )
    names = {value.strip(): values[0].strip() for values in groups.values() for value in values}
    apart = sorted({value.strip() for value in counts})
    pairs = ", ".join(f"{flow(label)}: {flow(name)}" for label, name in names.items())
    raise DataError(
        f"labels that differ in case or white space only: {shown}",
        "each spelling would be learned as a class of its own",
        f"to make one of them: data.label_names: {{{pairs}}}; if they are different classes: "
        f"data.labels: [{', '.join(map(flow, apart))}]",
    )
