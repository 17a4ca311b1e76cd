"""The values of a row by the template's names, each checked to be what the template can read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow, EmptyPrompt
from tuner.data.columns.column_names import called_reasoning
from tuner.data.columns.template_match import Fit
from tuner.data.fields.language import language_of
from tuner.data.fields.values import YES_NO, Words, as_json, written
from tuner.data.reading.read import Row
from tuner.data.sources.label_names import LabelNames, column_of
from tuner.data.templates.template import Conversation, Template, load_template
from tuner.data.turns.turn_lists import messages_of
from tuner.recipe import bundled

# What files call true and false.
_TRUTHS = (
    frozenset(("true", "yes", "y", "t", "1", "是", "是的", "对", "正确", "真")),
    frozenset(("false", "no", "n", "f", "0", "否", "不是", "不", "不对", "错", "错误", "假")),
)


def unprompted(fit: Fit[Template]) -> str:
    """Return the end of a sentence: how the answers of rows without a prompt are learned."""
    answers = [fit.columns[name] for name in fit.template.answer_columns if name in fit.columns]
    if len(answers) != 1:
        return ""
    return f"; to learn '{answers[0]}' alone: template: text, columns: {{text: {answers[0]}}}"


@dataclass(frozen=True)
class RowValues:
    """What the template sees of a row.

    Attributes:
        named: the values by the template's names of their columns.
        words: for true and false.
        letters: of the row's options; none if it has no options.
    """

    named: dict[str, Any]
    words: Words
    letters: tuple[str, ...] = ()


class ValueReader:
    """Reads the values of rows with one template.

    Args:
        fit: the template and its columns.
        labels: how the value of a label's column is written.
    """

    def __init__(self, fit: Fit[Template], labels: LabelNames | None = None) -> None:
        template = fit.template
        self._fit, self._template, self._labels = fit, template, labels or LabelNames()
        # Columns that are read by what knows their form.
        self._formed = {name for turn in template.turns for name in (turn.column, turn.calls)}
        self._formed |= {template.tools}
        if conversation := template.conversation:
            self._formed |= {conversation.column, conversation.tools}
        self._options: set[str] = set()
        if choice := template.choice:
            self._options = {choice.options, *choice.each, choice.answer}
        self._label = template.cloze.label if template.cloze else template.label
        # The column of a row's labels, which may have none.
        self._several = column_of(template) if self._labels.several else None
        # A template of the user's own prints or takes apart what it reads.
        self._own = template.name not in bundled.files("data_templates")

    def of(self, row: Row) -> RowValues:
        """Return the values of a row.

        Raises:
            BadRow: a column is missing, empty or of a kind that the template cannot read.
        """
        template = self._template
        words = template.booleans or YES_NO[template.language or _language(row.values)]
        values: dict[str, Any] = {}
        for name in template.columns.names:
            if name in self._options:
                self._value(row, name)
            else:
                values[name] = self._read(name, self._value(row, name), words)
        letters = self._choose(row, values) if template.choice else ()
        return RowValues(values, words, letters)

    def _value(self, row: Row, name: str) -> Any:
        """A value as the row has it, if it may be missing or empty in this column."""
        columns, fit = self._template.columns, self._fit
        if name not in columns.required or name in columns.blank or name == self._several:
            return fit.value(row, name)
        value = fit.required(row, name)
        if self._template.text is None and not _filled(value):
            asks = {*columns.required}.difference(self._template.answer_columns)
            column = fit.columns.get(name, name)
            problem = f"the column '{column}' is empty"
            if asks == {name}:
                raise EmptyPrompt(problem)
            if called_reasoning(column):
                problem += f" (data.reasoning_column: {column} reads such rows, too)"
            raise BadRow(problem)
        return value

    def _read(self, name: str, value: Any, words: Words) -> Any:
        """A value of a column as the template sees it; what is missing is an empty text."""
        if name == self._several:
            return self._labels.answer(self._template, name, value)
        if value is None:
            return ""
        if name in self._formed:
            return value
        column = self._fit.columns.get(name, name)
        conversation = self._template.conversation
        if conversation and name == conversation.system and isinstance(value, list):
            # What a conversation rests on, such as statutes.
            texts = value if all(isinstance(each, str) for each in value) else []
            value = "\n\n".join(texts) if texts or not value else value
        if name in self._fit.spoken:
            return messages_of(value, any_turns(), column)
        if name == self._label and self._template.booleans:
            return _truth(value, words, column)
        value = self._labels.answer(self._template, name, value)
        if isinstance(value, str):
            optional = name not in self._template.columns.required
            blank = optional or name in self._template.columns.blank
            return "" if blank and not value.strip() else value
        if name == self._label or isinstance(value, bool | int | float):
            return self._plain(name, value, words, column)
        if not self._own and not self._structured(name):
            raise BadRow(f"the column '{column}' is not text but {_kind(value)}")
        return value

    def _plain(self, name: str, value: Any, words: Words, column: str) -> Any:
        """A number, true or false; a label, or one of the labels, as text."""
        text, labels = as_json(value), self._labels.labels
        if name == self._label:
            return text
        answers = name in self._template.answer_columns
        if labels and answers and written(value, words) not in labels:
            raise BadRow(f"the answer in '{column}' is none of data.labels, but {text}")
        known = self._template.text is None and (answers or not isinstance(value, bool))
        if not (self._own or known or "boolean" in self._kinds(name)):
            raise BadRow(f"the column '{column}' is not text but {_kind(value)}")
        return value if self._own else written(value, words)

    def _kinds(self, name: str) -> Collection[str]:
        return self._template.columns.contents.get(name, ())

    def _structured(self, name: str) -> bool:
        return not {*self._kinds(name)}.isdisjoint(("list", "mapping", "objects", "table", "pairs"))

    def _choose(self, row: Row, values: dict[str, Any]) -> tuple[str, ...]:
        """Add the options by letter, and the answer's letter, to the values of a row."""
        choice, choices = self._template.choice, self._fit.choices
        assert choice is not None
        assert choices is not None
        options = choices.options_of(row.values)
        letters = {each.letter: each.text for each in options}
        answer = choices.letter_of(options, row.values, choice.several)
        values |= {choice.options: letters, choice.answer: answer}
        # Which letters go together is not one of the options.
        return () if choice.several else tuple(letters)


@cache
def any_turns() -> Conversation:
    """Return how turns are read whose template names no keys and roles."""
    conversation = load_template("chat", Path()).conversation
    assert conversation is not None
    return conversation


def _truth(value: Any, words: Words, column: str) -> str:
    """True or false in words, whatever a file calls it."""
    said = as_json(value) if isinstance(value, bool | int) else written(value).strip().casefold()
    for truth, names in zip(words, _TRUTHS, strict=True):
        if said in names or said == truth.casefold():
            return truth
    raise BadRow(f"the answer in '{column}' is neither {words[0]} nor {words[1]}: {said[:40]}")


def _language(values: Mapping[str, Any]) -> Any:
    if not any(isinstance(value, bool) for value in values.values()):
        return "en"
    return language_of(values.values()) or "en"


def _filled(value: Any) -> bool:
    """Whether a value is there: zero and false are, an empty text or list is not."""
    if isinstance(value, str):
        return bool(value.strip())
    return value not in ([], {})


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"
