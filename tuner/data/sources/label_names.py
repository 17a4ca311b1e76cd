"""The labels of rows as text: numbers, true and false as they are written, or by their names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.columns.ways import flow
from tuner.data.fields import several
from tuner.data.sources.source import Source
from tuner.data.templates.template import Template, variables
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

_LISTED = 20
_FILES = (".json", ".jsonl", ".txt", ".csv", ".tsv", ".yaml", ".yml")


def column_of(template: Template) -> str | None:
    """Return the template's column that is the answer; None if the answer is made of several."""
    if template.label or template.cloze:
        return template.label or (template.cloze.label if template.cloze else None)
    answers = [turn.content or "" for turn in template.turns if turn.role == "assistant"]
    used = variables(answers[0]) if len(answers) == 1 else set()
    return next(iter(used)) if len(used) == 1 else None


def written(value: Any) -> Any:
    """Return a number, true or false as text, 3.0 as 3; other values as they are."""
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else json.dumps(value)
    return json.dumps(value) if isinstance(value, int) else value


@dataclass(frozen=True)
class LabelNames:
    """How the value of a label's column becomes the answer.

    Attributes:
        names: by the value as text; empty: labels are their own names.
        column: the file's column that the names are in, if that is where they come from.
        all: whether the answers of every template are labels, so that numbers in them are text.
        labels: the recipe's; a number, true or false that is one of them counts as its text.
        several: whether a row may have any number of labels: the answer is all of them.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    column: str | None = None
    all: bool = False
    labels: frozenset[str] = frozenset()
    several: bool = False

    def answer(self, template: Template, name: str, value: Any) -> Any:
        """Return the value of one of the template's columns, a label as text.

        Raises:
            BadRow: a label has no name.
        """
        if name != column_of(template):
            text = written(value)
            return text if isinstance(value, int | float) and text in self.labels else value
        if self.several:
            whole = self.labels.union(self.names)
            return several.as_answer(map(self._named, several.in_cell(value, whole)))
        if not isinstance(value, str | int | float):
            return value
        if not (template.label or self.all or self.names):
            return written(value) if written(value) in self.labels else value
        text = written(value)
        return self._named(text.strip()) if self.names and isinstance(text, str) else text

    def _named(self, label: str) -> str:
        if not self.names:
            return label
        if label not in self.names and label not in self.names.values():
            where = f"in the column '{self.column}'" if self.column else "in data.label_names"
            raise BadRow(f"the label '{label}' has no name {where}")
        return self.names.get(label, label)


def label_names(data: DataSection, sources: Sequence[Source], head: str) -> LabelNames:
    """Return what `data.label_names` and `data.labels` say of the labels in the rows.

    Args:
        data: the recipe's data section.
        sources: the files, their formats recognised.
        head: what the examples are for: language, sequence or classes.

    Raises:
        DataError: no file has the column of the names, or it has two names for one label.
        RecipeError: two labels would have one name.
    """
    given, column = data.label_names, None
    if isinstance(given, str):
        column, given = given, _from_column(given, sources)
    names = dict(given or {})
    spelled: dict[str, set[str]] = {}
    for label, name in names.items():
        spelled.setdefault(name, set()).add(" ".join(label.split()).casefold())
    # One label in several spellings may have one name.
    if twice := sorted(name for name, labels in spelled.items() if len(labels) > 1):
        raise RecipeError(
            f"data.label_names: two labels have the name '{twice[0]}'",
            ", ".join(f"{label}: {name}" for label, name in names.items() if name == twice[0]),
            "give each label a name of its own",
        )
    own = frozenset({*data.labels, *names.values()})
    every = head == "classes" or bool(data.labels == ("auto",))
    return LabelNames(names, column, every, own, data.multi_label)


def _from_column(column: str, sources: Sequence[Source]) -> dict[str, str]:
    """The names in a column, by label, in the order of the labels."""
    found: dict[str, str] = {}
    for source in sources:
        if column not in source.columns:
            if Path(column).suffix.lower() in _FILES:
                raise _a_file(column, source)
            raise DataError(
                f"data.label_names: {source.name} has no column '{column}'",
                f"found: {', '.join(source.columns)}",
                "name the column that holds a name for each label, or list them: "
                "data.label_names: {0: negative, 1: positive}",
            )
        for label, name, row in _pairs(source, column):
            if found.setdefault(label, name) != name:
                raise DataError(
                    f"data.label_names: the column '{column}' has two names for the label {label}",
                    f"'{found[label]}' and, in {row}, '{name}'",
                    "correct the column, or list the names: data.label_names: {0: negative, ...}",
                )
    numbers = all(label.lstrip("+-").isdigit() for label in found)
    return dict(sorted(found.items(), key=lambda pair: (int(pair[0]) if numbers else 0, pair[0])))


def _a_file(name: str, source: Source) -> DataError:
    """The error about names that are in a file."""
    own = column_of(source.fit.template) or ""
    label = source.fit.columns.get(own, own)
    found = {str(written(row.values.get(label))).strip() for row in source.rows}
    order = sorted(found, key=lambda each: (not each.isdecimal(), each.zfill(9)))[:_LISTED]
    pairs = ", ".join(f"{flow(each)}: NAME" for each in order)
    return DataError(
        f"data.label_names: '{name}' is called like a file, and names are not read from one",
        "the key lists them, or names a column of the rows that has a name for each label",
        f"list them, by what '{label}' holds: data.label_names: "
        f"{{{pairs}{', ...' * (len(found) > _LISTED)}}}",
    )


def _pairs(source: Source, column: str) -> list[tuple[str, str, str]]:
    """Label, name and row of each row that has both."""
    own = column_of(source.fit.template) or ""
    label = source.fit.columns.get(own, own)
    rows = ((written(row.values.get(label)), row.values.get(column), row) for row in source.rows)
    return [
        (value.strip(), name.strip(), row.id)
        for value, name, row in rows
        if isinstance(value, str) and isinstance(name, str) and name.strip()
    ]


def naming_columns(sources: Sequence[Source]) -> list[str]:
    """Return the columns with exactly one name, a text, for each label, the likeliest first."""
    found: dict[str, bool] = {}
    for source in sources:
        own = column_of(source.fit.template) or ""
        label = source.fit.columns.get(own, own)
        for column in source.columns:
            pairs = _pairs(source, column) if column not in source.fit.used else []
            different = {(value, name) for value, name, _ in pairs}
            sides = [{pair[side] for pair in different} for side in (0, 1)]
            if len(pairs) == len(source.rows) and len(different) == len(sides[0]) == len(sides[1]):
                found[column] = column.startswith(label)
    return sorted(found, key=lambda column: not found[column])
