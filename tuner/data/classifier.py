"""A run whose answers are labels: what is kept of its data, and how inputs are asked with it.

What is kept goes into the manifest of every artefact. Whoever uses the model makes of an input what
training made of a row, with the same code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.columns.template_match import Fit
from tuner.data.fields import joined, several
from tuner.data.reading.read import Row
from tuner.data.rows.check_row import check
from tuner.data.rows.dialogue import Dialogue, RowRenderer
from tuner.data.sources.label_names import LabelNames
from tuner.data.templates.template import Template, load_template, variables
from tuner.data.tokens.example import Example
from tuner.data.tokens.example_maker import ExampleMaker
from tuner.data.tokens.prepared import Inputs
from tuner.data.turns.turn_lists import messages_of
from tuner.data.turns.turn_rules import TurnRules
from tuner.recipe.schema import DataSection

# Keys that are about the files, not about how a row is read.
_OF_FILES = frozenset(
    (
        *("train", "eval", "template", "columns", "labels", "label_names", "reasoning_column"),
        *("max_rows", "max_bad_rows", "packing", "long", "special_tokens_in_text"),
    )
)
Given = str | Mapping[str, Any]


def record(
    data: DataSection, fit: Fit[Template], labels: Sequence[str], maker: ExampleMaker
) -> dict[str, Any]:
    """Return what is kept of the data of a run whose answers are labels.

    Args:
        data: the recipe's data section.
        fit: the template of the rows.
        labels: in the order of a head's classes.
        maker: of the examples.
    """
    kept = data.model_dump(mode="json", exclude_defaults=True, exclude=set(_OF_FILES))
    render = "chat" if maker.chat_template else "raw"
    return {
        "labels": list(labels),
        "head": maker.head,
        "template": fit.template.model_dump(
            mode="json", exclude_defaults=True, exclude={"samples"}
        ),
        "columns": dict(fit.columns),
        "data": kept | {"render": render, "max_length": maker.max_length},
        **({"threshold": several.THRESHOLD} if data.multi_label else {}),
    }


def of_texts(labels: Sequence[str], multi_label: bool = False) -> dict[str, Any]:
    """Return the same of a classification head that reads the text alone."""
    template = load_template("classification", Path())
    shown = template.model_dump(mode="json", exclude_defaults=True, exclude={"samples"})
    kept = {"labels": list(labels), "head": "classes", "template": shown, "columns": {}, "data": {}}
    return kept | ({"threshold": several.THRESHOLD} if multi_label else {})


def labels_only(
    templates: Collection[Template], rows: Collection[Dialogue], labels: set[str]
) -> bool:
    """Return whether every row is one question whose answer is a label."""
    if not labels or any(template.conversation or template.text for template in templates):
        return False
    return all(
        row.answer.strip() in labels
        and sum(turn["role"] == "assistant" for turn in row.messages) <= 1
        for row in rows
    )


@dataclass(frozen=True)
class Asked:
    """An input as the model reads it.

    Attributes:
        examples: one per label, or one for a head.
        truncated: whether the end of the text is cut off, as in training.
    """

    examples: list[Example]
    truncated: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(example.num_tokens for example in self.examples)


class Classifier:
    """Makes of inputs what the model reads, as training made it of rows.

    Args:
        kept: see `record`.
        tokenizer: saved with the model.
        room: tokens that a row may have.
        stop_ids: tokens that end an answer, next to the tokenizer's.

    Attributes:
        labels: in the order of a head's classes.
        head: language, sequence or classes.
        threshold: from which probability on each of several labels is answered; None: one is.
        columns: those of an input: its template's names, required ones first.
    """

    def __init__(
        self, kept: Mapping[str, Any], tokenizer: Any, room: int, stop_ids: Collection[int]
    ) -> None:
        self.labels: tuple[str, ...] = tuple(kept["labels"])
        self.head = str(kept["head"])
        self.threshold: float | None = kept.get("threshold")
        self._template = Template.model_validate(kept["template"])
        self._renamed = {file: name for name, file in kept["columns"].items()}
        # Texts that training joined from several columns: an input may have these as well.
        self._joined = {file: found for file in self._renamed if (found := joined.parts(file))}
        known = {
            key: value for key, value in kept["data"].items() if key in DataSection.model_fields
        }
        # A classifier reads as much of a text as in training; what is written needs all of it.
        most = min(known.pop("max_length", room), room) if self.head == "classes" else room
        data = DataSection.model_validate({**known, "train": ["-"]})
        inputs = Inputs(data, tokenizer, Path(), 0, room, stop_ids)
        self._maker = ExampleMaker(inputs, [self._template], most, self.head, self.labels)
        self._rules = TurnRules.of(data)
        names = self._template.columns.names
        answers = _answers(self._template)
        self.columns = tuple(name for name in names if name not in answers)
        self._filled = {name: self.labels[0] for name in names if name in answers}
        fit = Fit(self._template, {name: name for name in names}, "")
        self._renderer = RowRenderer(fit, LabelNames(labels=frozenset(self.labels)), self._rules)

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that an input must have."""
        return tuple(name for name in self.columns if name in self._template.columns.required)

    def asked(self, given: Given) -> Asked:
        """Return what the model reads of an input.

        Args:
            given: the text, or an object with the columns of a row, by the names in the file or in
                the template.

        Raises:
            BadRow: it lacks a column, has another one, or does not fit into the context.
        """
        dialogue = self._dialogue(given)
        check(dialogue)
        if self.head != "classes":
            return Asked(self._maker.answered(dialogue, self.labels))
        (rendered,) = self._maker.render(dialogue)
        (encoded,) = self._maker.encoder.encode([rendered], True)
        if isinstance(encoded, BadRow):
            raise encoded
        example = replace(self._maker.example(rendered, encoded), label=None, goals=())
        whole = self._maker.whole_length(encoded, example)
        return Asked([example], example.num_tokens < whole)

    @property
    def mapping(self) -> dict[str, str]:
        """The names of an input's columns in the files that it was trained on, by the template's
        names, where they differ."""
        return {
            name: file
            for file, name in self._renamed.items()
            if name in self.columns and name != file
        }

    def asked_by_row(self, values: Mapping[str, Any], columns: Mapping[str, str]) -> Asked:
        """Return what the model reads of a row of a file; other columns are ignored.

        Args:
            values: of the row, by the names in the file.
            columns: these names, by those of the template.

        Raises:
            BadRow: it lacks a column, or does not fit into the context.
        """
        named = {name: columns.get(name, name) for name in self.columns}
        given = {
            name: values[file] if file in values else values[name]
            for name, file in named.items()
            if file in values or name in values
        }
        conversation = self._template.conversation
        if conversation is None:
            return self.asked(given)
        column = conversation.column
        turns = messages_of(given.get(column), conversation, named[column])
        questions = [turn["content"] for turn in turns if turn["role"] == "user"]
        if len(questions) != 1:
            raise BadRow(f"a classifier reads one question, and the row has {len(questions)}")
        return self.asked(str(questions[0]))

    def _dialogue(self, given: Given) -> Dialogue:
        if self._template.conversation:
            if not isinstance(given, str):
                raise BadRow("this model reads a text, not an object")
            turns = [{"role": "user", "content": given}]
            turns.append({"role": "assistant", "content": self.labels[0]})
            messages = self._rules.applied(turns, {})
            return Dialogue("the input", messages, answer=self.labels[0])
        return self._renderer.render(Row(Path("the input"), 1, self._values(given) | self._filled))

    def _values(self, given: Given) -> dict[str, Any]:
        needed = self.needed
        if isinstance(given, str):
            if len(needed) != 1:
                raise BadRow(f"this model reads an object with {', '.join(needed)}, not a text")
            return {needed[0]: given}
        texts = {
            text: names
            for text, names in self._joined.items()
            if self._renamed[text] not in given and text not in given
        }
        given = joined.with_texts(given, texts, ()) if texts else given
        values = {self._renamed.get(name, name): value for name, value in given.items()}
        if odd := sorted(values.keys() - set(self.columns) - set(self._filled)):
            raise BadRow(f"unknown column {', '.join(odd)}; it reads {self._reads()}")
        if missing := [name for name in needed if values.get(name) is None]:
            raise BadRow(f"the column '{missing[0]}' is missing; it reads {self._reads()}")
        return values

    def _reads(self) -> str:
        files = {self._renamed[text]: f" ({text})" for text in self._joined}
        return ", ".join(f"{name}{files.get(name, '')}" for name in self.columns)


def _answers(template: Template) -> set[str]:
    """The template's columns that only the answer reads."""
    if template.cloze:
        return {template.cloze.label}
    read: dict[bool, set[str]] = {True: set(), False: set()}
    for turn in template.turns:
        read[turn.role == "assistant"] |= variables(turn.content or "")
    return read[True] - read[False]
