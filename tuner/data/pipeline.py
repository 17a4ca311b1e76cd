"""The one path of data: files, rows, the items of a task, two splits, examples, and a report."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Generic

from tuner.console.formatting import counted
from tuner.data.columns.choices import as_trained, settle
from tuner.data.columns.template_match import Fit
from tuner.data.reading import read
from tuner.data.reading.read import NotUtf8, Row
from tuner.data.sources.both import mended
from tuner.data.sources.file_errors import explained, refuse_marked, refuse_pairs
from tuner.data.sources.files import in_source, read_source
from tuner.data.sources.source import Source, SplitFiles
from tuner.data.split import Item, Split, split
from tuner.data.tokens.example_maker import ExampleMaker
from tuner.data.tokens.prepared import Inputs, Prepared, Preview, PromptFormat
from tuner.data.turns.turn_rules import refuse_own_texts
from tuner.errors import DataError, RecipeError, TunerError
from tuner.recipe.schema_source import SourceSection


class Pipeline(ABC, Generic[Item]):
    """Prepares the rows of a recipe for one task.

    A task says which format the rows have, which items it makes of them (these are split), and
    which examples of the items.

    Attributes:
        unit: what an item is called in messages.
        likely: the format's columns that columns without names are likely to be, in order.
        labels: answers to choose from.

    Raises:
        RecipeError: the recipe's lengths do not fit the model or the task.
    """

    unit = "prompts"
    likely: tuple[str, ...] = ("prompt", "completion")
    labels: tuple[str, ...] = ()
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
            raise self._empty(self.source.train, self._left_out(self.source.train))
        report = self._report(items, train, held)
        report = {"rows_in": report["rows_in"], "bad_rows": len(report["skipped"]), **report}
        report["earlier_turns"] = self.inputs.earlier_turns
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

    def preview(self, count: int) -> tuple[Prepared, list[Preview]]:
        """Prepare all rows, and return the first training rows of each source as they are learned.

        Args:
            count: rows to show, of all sources together; at least one of each.

        Raises:
            TunerError: as `prepare`.
        """
        prepared = self.prepare()
        return prepared, self._previews(prepared, -(-count // len(self.data.train)))

    @abstractmethod
    def _previews(self, prepared: Prepared, count: int) -> list[Preview]:
        """The first training rows, so many of each source, as they are learned."""

    def _split(self) -> Split[Item]:
        try:
            self.source = read_source(
                self.data, self.inputs.folder, self.max_length, self.inputs.seed
            )
        except NotUtf8 as error:
            raise self._with_later(error) from None
        files = self.source.train, self.source.eval
        for each in files:
            self._refuse_empty(each, each.rows)
        self._recognise()
        for each in files:
            self.source.reader.draw(each, self._row_label, self._row_key)
        for source in self.source.sources:
            for row in () if self._splits(source) else source.rows:
                read.cut(row, self.source.reader.most)
        train, held = (self._items(each) for each in files)
        self.source.bad.stop_if_too_many(len(self.source.rows))
        for each, found in zip(files, (train, held), strict=True):
            self._refuse_empty(each, found)
        return split(train, held, self.data, self.inputs.seed, self.unit, self._label)

    def _with_later(self, error: NotUtf8) -> DataError:
        """An error about the encoding of the only file to train on with what else would stop it."""
        (item,) = self.data.train if len(self.data.train) == 1 else (None,)
        source = SourceSection(source=item) if isinstance(item, str) else item
        if source is None or source.encoding is not None:
            return error
        named = source.model_copy(update={"encoding": error.encoding})
        other = copy.copy(self)
        other.data = self.data.model_copy(update={"train": (named,)})
        other.inputs = replace(self.inputs, data=other.data)
        try:
            other._split()
        except TunerError as later:
            return mended(error, later)
        return error

    def _splits(self, source: Source) -> bool:
        """Whether rows of a source become pieces where they are too long."""
        return False

    def _row_label(self, source: Source, row: Row) -> str | None:
        """What a row is stratified by where rows are drawn; None: nothing."""
        return None

    def _row_key(self, source: Source, row: Row) -> Any:
        """What decides whether a row is drawn: rows that belong together have the same."""
        return row.values

    def _label(self, item: Item) -> str | None:
        """What an item is stratified by where rows are held out; None: nothing."""
        return None

    def _recognise(self) -> None:
        """Find the format of each source by its first rows."""
        several = len(self.source.sources) > 1
        for source in self.source.sources:
            if not source.rows:
                continue
            try:
                source.fit = self._fit(source)
                refuse_own_texts(source.data, self.data, source.fit.template)
                if not self.inputs.formats:
                    refuse_pairs(source, self.likely)
                    refuse_marked(source)
            except (DataError, RecipeError) as found:
                error = explained(found, source, self.likely)
                raise in_source(error, source) if several else error from None
        as_trained(self.source.train.sources, self.source.eval.sources)
        settle(source.fit for source in self.source.sources if source.rows)

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
        return f"{counted(bad, 'bad row')} left out, none is left" if bad else "no rows"

    def _empty(self, files: SplitFiles, why: str) -> DataError:
        bad, fix = self.source.bad, f"point data.{files.name} to a file with rows"
        problems = [why, *bad.problems()] if bad.found else None
        return DataError(
            f"the {files.name} split is empty",
            why,
            bad.fix_for_all() if problems else fix,
            problems,
        )
