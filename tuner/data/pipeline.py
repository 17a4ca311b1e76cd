"""The one path of data: files, rows, the items of a task, two splits, examples, and a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Generic

from tuner.data.example_maker import ExampleMaker
from tuner.data.files import EVIDENCE, Source, SplitFiles, in_source, read_source
from tuner.data.prepared import Inputs, Prepared, Preview, PromptFormat
from tuner.data.split import Item, Split, split
from tuner.data.template_match import Fit
from tuner.data.turn_rules import refuse_own_system
from tuner.errors import DataError, RecipeError


class Pipeline(ABC, Generic[Item]):
    """Prepares the rows of a recipe for one task.

    A task says which format the rows have, which items it makes of them (these are split), and
    which examples of the items.

    Attributes:
        unit: what an item is called in messages.
        labels: answers to choose from.
        sent: after a preview, how prompts are sent when the model is used.
        first: prepare only so many rows of each source, for a preview; None: all.

    Raises:
        RecipeError: the recipe's lengths do not fit the model or the task.
    """

    unit = "prompts"
    labels: tuple[str, ...] = ()
    sent = PromptFormat()
    first: int | None = None
    maker: ExampleMaker

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.data, self.tokenizer = inputs, inputs.data, inputs.tokenizer
        self.max_length = inputs.max_length()

    def prepare(self) -> Prepared:
        """Read, recognise, check, split and tokenize the rows.

        Raises:
            DataError: the rows cannot be read, do not fit the format, or leave nothing to train on.
            RecipeError: a key of the data section names something that does not exist.
            ModelError: the tokenizer or its chat template does not fit.
            SafetyError: the chat template is not safe to run.
        """
        items = self._split()
        train, held = self._examples(items)
        if not train:
            raise DataError(
                "the train split is empty",
                "none of its rows could be rendered and kept",
                "see `tuner data preview`",
            )
        report = self._report(items, train, held)
        name, template = report["template"], self.maker.chat_template
        sent = self._sent(items.train)
        kept = self._classifier(items.train)
        return Prepared(train, held, name, self.labels, template, report, sent, kept)

    @property
    def fits(self) -> list[Fit[Any]]:
        """The formats of the sources, each once."""
        found: dict[str, Fit[Any]] = {}
        for source in self.source.sources:
            if source.rows:
                found.setdefault(source.fit.template.name, source.fit)
        return list(found.values())

    def _format_facts(self) -> dict[str, str]:
        """The report's facts about the formats."""
        fits = self.fits
        one = len(fits) == 1
        return {
            "template": ", ".join(fit.template.name for fit in fits),
            "template_origin": fits[0].origin if one else "each source's own",
        }

    def _sent(self, items: Sequence[Item]) -> PromptFormat:
        """How the prompts of these items are sent when the model is used."""
        return PromptFormat()

    def _classifier(self, items: Sequence[Item]) -> dict[str, Any] | None:
        """How inputs are classified; None if the answers are not all labels."""
        return None

    @abstractmethod
    def preview(self) -> tuple[list[Preview], list[str]]:
        """Return the training rows as they are learned, and what a reader should not overlook.

        Raises:
            TunerError: as `prepare` does, except for rows that truncation leaves without an answer.
        """

    def _split(self) -> Split[Item]:
        few = None if self.first is None else max(EVIDENCE, self.first)
        self.source = read_source(
            self.data, self.inputs.folder, self.max_length, self.inputs.seed, few
        )
        files = self.source.train, self.source.eval
        for each in files:
            self._refuse_empty(each, each.rows)
        self._recognise()
        train, held = (self._items(each) for each in files)
        self.source.bad.stop_if_too_many()
        for each, found in zip(files, (train, held), strict=True):
            self._refuse_empty(each, found)
        return split(train, held, self.data, self.inputs.seed, self.unit)

    def _recognise(self) -> None:
        """Find the format of each source by its first rows, and keep those of a preview."""
        several = len(self.source.sources) > 1
        for source in self.source.sources:
            if not source.rows:
                continue
            try:
                source.fit = self._fit(source)
                refuse_own_system(source.data, self.data, source.fit.template)
            except (DataError, RecipeError) as error:
                raise in_source(error, source) if several else error from None
            source.rows = source.rows[: self.first]

    @abstractmethod
    def _fit(self, source: Source) -> Fit[Any]:
        """Find the format of a source's rows."""

    @abstractmethod
    def _items(self, files: SplitFiles) -> list[Item]:
        """Make the items of a split's rows; bad rows are recorded."""

    @abstractmethod
    def _examples(self, items: Split[Item]) -> tuple[list[Any], list[Any]]:
        """Make what is trained on, and what is held out; sets `maker`."""

    @abstractmethod
    def _report(
        self, items: Split[Item], train: Sequence[Any], held: Sequence[Any]
    ) -> dict[str, Any]:
        """The content of `data_report.json`, with the warnings."""

    def _refuse_empty(self, files: SplitFiles, found: Collection[Any]) -> None:
        if files.paths and not found:
            names = ", ".join(map(str, files.paths))
            raise self._empty(files, f"{names}: {self._left_out(files)}")

    def _left_out(self, files: SplitFiles) -> str:
        bad = len(self.source.bad.found)
        return f"{bad} bad rows were left out, none is left" if bad else "no rows"

    def _empty(self, files: SplitFiles, why: str) -> DataError:
        fix = f"point data.{files.name} to a file with rows"
        return DataError(f"the {files.name} split is empty", why, fix)
