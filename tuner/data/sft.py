"""Supervised data: dialogues and plain texts to training examples and eval rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from tuner.console.formatting import counted
from tuner.data.bad_rows import BadRows
from tuner.data.classifier import labels_only, record
from tuner.data.columns import choices
from tuner.data.columns.template_match import Fit
from tuner.data.pipeline import Pipeline
from tuner.data.preview_parts import preview_of
from tuner.data.reading.read import Row
from tuner.data.recognise import account, as_begun, recognise
from tuner.data.report import SUPERVISED, chat_facts, losses, skipped, tokens_sha256, warnings_of
from tuner.data.rows import reasoned, strata
from tuner.data.rows.check_row import check
from tuner.data.rows.dialogue import Dialogue, RowRenderer
from tuner.data.rows.label_faults import refuse_faults
from tuner.data.rows.labels import facts as label_facts
from tuner.data.rows.labels import labels_of, listed, odd_facts, refuse_unseen
from tuner.data.rows.turn_tally import TurnTally
from tuner.data.sources.both import Held
from tuner.data.sources.label_names import label_names, naming_columns
from tuner.data.sources.source import Source, SplitFiles
from tuner.data.sources.split_column import refuse_trained_tests
from tuner.data.sources.thumbs import is_down, refuse_disliked, thumb_columns
from tuner.data.split import Split
from tuner.data.templates.template import AUTO, Template
from tuner.data.tokens import cut
from tuner.data.tokens.eval_rows import eval_row
from tuner.data.tokens.example import Example
from tuner.data.tokens.example_maker import ExampleMaker, Pair
from tuner.data.tokens.long import Fitting, length_facts, refuse_split
from tuner.data.tokens.prepared import EvalRow, Inputs, Prepared, Preview, PromptFormat
from tuner.data.trained_prompts import trained
from tuner.data.turns.turn_rules import TurnRules, refuse_unknown_column
from tuner.data.understood import of_sources
from tuner.errors import DataError


class SftData(Pipeline[Dialogue]):
    """Prepares `Example`s, and `EvalRow`s of the held-out rows.

    Args:
        inputs: the rows, and what they are prepared with.
        head: what the examples are for: language, sequence or classes.
    """

    unit = "rows"

    def __init__(self, inputs: Inputs, head: str = "language") -> None:
        super().__init__(inputs)
        self.head = head
        self._blank: dict[str, int] = {}
        self._disliked = 0
        self._thumbs: dict[str, list[str]] = {}
        self._turns = TurnTally(inputs.earlier_turns)
        self._rules = TurnRules.of(self.data, inputs.earlier_turns)

    def check(self) -> None:
        """Read the rows and check all that needs no tokenizer: what they are, and their labels.

        Raises:
            DataError, RecipeError: as `prepare`.
        """
        items = self._split()
        self._find_labels(items, items.train)

    def _recognise(self) -> None:
        refuse_unknown_column(self.data, [n for each in self.source.sources for n in each.columns])
        with Held(len(self.source.sources) == 1) as self._held:
            super()._recognise()
            sources = [source for source in self.source.sources if source.rows]
            self.names = label_names(self.data, sources, self.head)
            if not self.inputs.formats:
                refuse_faults(sources, self.data, self.names, self.head)

    def _fit(self, source: Source) -> Fit[Template]:
        begun = as_begun(source, self.source.sources, self.inputs)
        if not begun:
            if "eval" not in source.given and not self.inputs.formats:
                self._held.back(refuse_trained_tests, source, self.data)
                source.given |= self._held.keys
            source.fit = recognise(source, self.inputs.folder)
        thumbs = thumb_columns(source.fit, source, bool(self.inputs.formats))
        self._thumbs[source.name] = thumbs
        read = {*thumbs, self.data.reasoning_column or ""}
        if self.data.label_names:
            read |= {str(self.data.label_names), *naming_columns([source])}
        account(source, read, begun)
        return source.fit

    def _items(self, files: SplitFiles) -> list[Dialogue]:
        """The dialogues of the liked rows; supervised learning has no use for others."""
        disliked = self._disliked
        items = [each for source in files.sources if source.rows for each in self._of(source)]
        if files.rows and self._disliked - disliked == len(files.rows):
            found = [self._thumbs.get(each.name, ()) for each in files.sources]
            thumbs = dict.fromkeys(name for names in found for name in names)
            raise DataError(
                f"the {files.name} split is empty",
                f"{counted(len(files.rows), 'row')}, all thumbs-down (column {', '.join(thumbs)}), "
                "and disliked answers are not trained on",
                "add liked answers; or learn from both kinds: tuner reward, or tuner rlhf with "
                "rlhf.algorithm: dpo",
            )
        self._blank[files.name] = items.count(None)
        return [dialogue for dialogue in items if dialogue]

    def _of(self, source: Source) -> list[Dialogue | None]:
        """The dialogues of a source's liked rows; None for a raw text that is blank."""
        thumbs = self._thumbs[source.name]
        if self.data.disliked == "error":
            refuse_disliked(source, thumbs)
        thumbs = [] if self.data.disliked == "learn" else thumbs
        liked = [row for row in source.rows if not is_down(row, thumbs)]
        self._disliked += len(source.rows) - len(liked)
        documents = source.fit.template.documents
        rules = self._rules.of_source(source.data)
        renderer = RowRenderer(source.fit, self.names, rules)

        def dialogue(row: Row) -> Dialogue | None:
            made = renderer.supervised(row)
            if made.plain and not made.answer.strip():
                return None
            check(made, results=not self.inputs.earlier_turns)
            self._turns.add(made)
            values = [source.fit.value(row, name) for name in documents]
            return replace(made, documents=tuple(cut.documents(values)))

        return self.source.each(liked, dialogue)

    def _left_out(self, files: SplitFiles) -> str:
        bad, blank = len(self.source.bad.found), self._blank.get(files.name, 0)
        if not bad and not blank:
            return "no rows"
        return f"{bad:,} bad and {counted(blank, 'blank row')} left out, none is left"

    def _examples(self, items: Split[Dialogue]) -> tuple[list[Example], list[EvalRow]]:
        pairs, held = self._encoded(items)
        self._pairs, self._trained = pairs, items.train
        train = [example for _, example in self.maker.cut(pairs, self.maker.train)]
        longest = max((len(encoded.ids) for _, encoded in pairs), default=0)
        kept = {example.row for example in train}
        self.maker.stop_if_too_many_dropped(len(items.train), kept, longest)
        return train, self._eval(held) if items.eval else []

    def _encoded(self, items: Split[Dialogue]) -> list[list[Pair]]:
        """The rows of both splits, encoded and as long as `data.long` allows."""
        templates, bad = [fit.template for fit in self.fits], self.source.bad
        refuse_split(self.data, templates, self.head)
        held_out = items.eval if self.data.eval_file is None else []
        rows = [*items.train, *held_out]
        self._find_labels(items, rows)
        self.maker = ExampleMaker(self.inputs, templates, self.max_length, self.head, self.labels)
        self._unread = self.maker.unread_keys(rows)
        train = self.maker.encode(items.train, bad)
        held = self.maker.encode(items.eval, bad, prompts=True)
        return Fitting(self.inputs, self.maker, self.labels).settle(train, held)

    def _splits(self, source: Source) -> bool:
        plain = not source.rows or source.fit.template.text is not None
        return plain and self.inputs.splits(self.head)

    def _row_label(self, source: Source, row: Row) -> str | None:
        return strata.of_row(source, row, self.data, self.head)

    def _label(self, item: Dialogue) -> str | None:
        template = self.source.train.sources[item.source].fit.template
        return strata.of_dialogue(item, template, self.data, self.head)

    def _find_labels(self, items: Split[Dialogue], rows: Sequence[Dialogue]) -> None:
        train = self.source.train
        self.labels = labels_of(
            self.data,
            [fit.template for fit in self.fits],
            self._labelled(rows, train),
            self.head,
            self.names.names,
            lambda: naming_columns([each for each in self.source.sources if each.rows]),
        )
        if not listed(self.data, self.names.names):
            held = train if self.data.eval_file is None else self.source.eval
            sides = self._labelled(items.train, train), self._labelled(items.eval, held)
            refuse_unseen(*sides, self.labels, self.data.multi_label)

    def _labelled(self, rows: Sequence[Dialogue], files: SplitFiles) -> list[Dialogue]:
        """The rows of sources that have labels; all of them, if they are classified."""
        if self.names.all:
            return list(rows)
        sources = files.sources
        return [row for row in rows if sources[row.source].fit.template.label is not None]

    def _eval(self, pairs: Sequence[Pair]) -> list[EvalRow]:
        kept = self.maker.cut(pairs, self.maker.eval)
        if not kept:
            raise DataError(
                "the eval split is empty",
                f"at data.max_length {self.max_length} no held-out row keeps any of its answer",
                "set a larger data.max_length, or data.eval: 0",
            )
        return [eval_row(self.maker, *each, self.labels, self.tokenizer) for each in kept]

    def _report(
        self, items: Split[Dialogue], train: Sequence[Example], held: Sequence[EvalRow]
    ) -> dict[str, Any]:
        also = {"row": "they are also", "prompt": "their prompts are"}
        report = self._facts() | items.facts
        report |= {
            "rows_train": len({example.row for example in train}),
            "rows_eval": len({row.example.row for row in held}),
            "examples_train": len(train),
            "skipped": skipped(self.source.bad),
            "tokens": sum(example.num_tokens for example in train),
            "longest": max(example.num_tokens for example in train),
            **self._format_facts(),
            **chat_facts(self.maker),
            **reasoned.facts(self._reasons(items.train)),
            "tokens_sha256": tokens_sha256(train),
            **losses(self.maker),
            **length_facts(self.inputs, self.maker, [fit.template for fit in self.fits], train),
            **label_facts(self.labels, items.train, items.eval, self.data.multi_label),
        }
        rows = self._labelled(items.train, self.source.train)
        report |= odd_facts(self.labels, rows, self.data.multi_label)
        report["warnings"] = warnings_of(report, SUPERVISED, also[self.data.split])
        asked = self.names.names or self.data.labels == (AUTO,)
        if asked or (any(fit.template.label for fit in self.fits) and not self.data.labels):
            report["labels"] = list(self.labels)
        if (self.labels or any(row.options for row in held)) and self.head != "classes":
            without = sum(row.gold is None for row in held)
            report["eval_rows_without_label"] = without
            if without:
                report["warnings"].append(
                    f"{without} of {len(held)} held-out rows do not count for label_accuracy: "
                    "their answers are no labels, or too long"
                )
        return report

    def _sent(self, items: Sequence[Dialogue]) -> PromptFormat:
        answers = [*chain.from_iterable(self._reasons(items))]
        defaults = self.maker.defaults(answers)
        finder = self.maker.finder
        return PromptFormat(
            defaults,
            self.maker.plain_template,
            tuple(trained(self._pairs, self.maker)),
            finder.chat.arguments(reasons=False) if finder else {},
        )

    def _reasons(self, items: Sequence[Dialogue]) -> list[list[bool]]:
        """Of each row whether reasoning comes before its learned answers."""
        used = {rendered.dialogue.row for rendered, _ in self._pairs}
        kept = [each for each in items if each.row in used]
        return reasoned.by_row(kept, drop=self.data.reasoning == "drop")

    def _classifier(self, items: Sequence[Dialogue]) -> dict[str, Any] | None:
        templates = [fit.template for fit in self.fits]
        if self.head != "classes" and not labels_only(templates, items, {*self.labels}):
            return None
        return record(self.data, self.fits[0], self.labels, self.maker)

    def _facts(self) -> dict[str, Any]:
        read = {name for name in (self.data.reasoning_column, self.names.column) if name}

        def used(source: Source) -> frozenset[str]:
            return source.fit.used.union(read, self._thumbs[source.name] if self._disliked else ())

        blank = sum(self._blank.values())
        facts = self.source.facts(used, blank_rows=blank, thumbs_down_rows=self._disliked)
        by_key = sum(self._rules.by_key.values())
        return {
            "understood": of_sources(self.source.sources, used),
            **facts,
            "unread_columns": list(dict.fromkeys(n for s in self.source.sources for n in s.unread)),
            **self._turns.facts(),
            **self.maker.odd(),
            "unsure_option_numbers": choices.unsure(self.fits),
            "unread_turn_keys": self._unread,
            "turns_learned_by_key": by_key,
        }

    def _previews(self, prepared: Prepared, count: int) -> list[Preview]:
        kept, seen = {example.row for example in prepared.train}, Counter[int]()
        first = []
        for dialogue in self._trained:
            if dialogue.row in kept and seen[dialogue.source] < count:
                seen[dialogue.source] += 1
                first.append(dialogue)
        self.maker.encoder.keep_offsets = True
        pairs = self.maker.encode(first, BadRows(len(first)))
        fitted = Fitting(self.inputs, self.maker, self.labels).fitted(pairs, self.maker.train)
        return [preview_of(self.maker, pair, self.labels, self.tokenizer) for pair in fitted]
