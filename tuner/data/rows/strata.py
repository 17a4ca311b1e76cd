"""What rows are drawn and held out by: their labels, where they have some."""

from __future__ import annotations

from typing import Any

from tuner.data.reading.read import Row
from tuner.data.rows.dialogue import Dialogue
from tuner.data.sources.label_names import column_of, written
from tuner.data.sources.source import Source
from tuner.data.templates.template import AUTO, Template
from tuner.recipe.schema import DataSection


def of_row(source: Source, row: Row, data: DataSection, head: str) -> str | None:
    """Return the label of a row before it is rendered; None if it has none."""
    if data.multi_label:
        return None
    template: Template = source.fit.template
    asked = _asked(data)
    known = () if asked else data.labels or template.labels
    labelled = template.label or template.cloze or known or asked or head == "classes"
    column = column_of(template) if labelled else None
    value = None if column is None else source.fit.value(row, column)
    text = "" if value is None else _said(value, template).strip()
    return text if text and (text in known or not known) else None


def _said(value: Any, template: Template) -> str:
    """A label as its row will have it: true is not True, and in some templates is yes."""
    if isinstance(value, bool) and template.booleans:
        return template.booleans[not value]
    return str(written(value))


def of_dialogue(item: Dialogue, template: Template, data: DataSection, head: str) -> str | None:
    """Return the label of a row; None if its answer is none."""
    if data.multi_label:
        return None
    answer = item.answer.strip()
    labelled = template.label is not None or head == "classes" or _asked(data)
    known = data.labels or template.labels or item.words
    return answer if labelled or answer in known else None


def _asked(data: DataSection) -> bool:
    """Whether the rows say which labels there are: the recipe gives names at most."""
    return data.labels == (AUTO,) or bool(data.label_names)
