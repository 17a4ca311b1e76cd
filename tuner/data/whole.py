"""Prompts, and answers to them, which are kept whole or left out, never cut."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from tuner.data.answer_encoder import AnswerEncoder, Answers, PromptAndAnswers
from tuner.data.bad_rows import BadRow
from tuner.data.example_maker import MAX_LOST_SHARE, ExampleMaker
from tuner.data.pipeline import Pipeline
from tuner.data.prepared import Inputs, Part, Preview
from tuner.data.report import chat_facts, sequences_sha256, skipped, token_facts, warnings_of
from tuner.data.split import Split
from tuner.data.tally import Tally
from tuner.data.template import Template
from tuner.data.turn_rules import refuse_rules
from tuner.errors import DataError, RecipeError

WARNED = (
    *("read_as", "rows_of_items"),
    *("skipped", "ignored_columns", "dropped_too_long", "eval_dropped_too_long"),
    *("eval_rows_also_in_train", "special_tokens_in_text", "unpaired_rows", "identical_answers"),
    *("contradicting_pairs", "pairs_too_long", "blank_rows"),
)


Item = TypeVar("Item", bound=PromptAndAnswers)


class WholePipeline(Pipeline[Item]):
    """Prepares items that stay whole: those that are too long are left out, if they are few.

    Attributes:
        what: what may be too long, for messages.
        no_room: why no held-out item is left.
        sampled: the model answers these prompts by itself, or scores such answers.

    Raises:
        RecipeError: `data.long` is truncate or split.
    """

    what: str
    no_room: str
    sampled = True

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        if self.data.long in ("truncate", "split"):
            raise RecipeError(
                f"data.long: {self.data.long}, but preferences and prompts are never cut",
                "half a prompt asks something else, and half an answer is another answer",
                "leave data.long out (rows that do not fit are dropped, if few), or set it to "
                "error",
            )

        why = "preferences and prompts learn the last answer, or one that the policy writes"
        refuse_rules(self.data, why, "learn", "reasoning_column")

    @abstractmethod
    def _example(self, item: Item, answers: Answers, tally: Tally) -> Any:
        """The item as token ids; None if it is too long."""

    @abstractmethod
    def _room(self, longest: int) -> str:
        """What to set so that the longest item fits, or why nothing can be set."""

    @abstractmethod
    def _counts(self, train: Sequence[Any], held: Sequence[Any]) -> dict[str, Any]:
        """The task's own part of the report."""

    def _templates(self, items: Sequence[Item]) -> list[Template]:
        """The data templates by which the items are rendered."""
        return [fit.template for fit in self.fits]

    def _examples(self, items: Split[Item]) -> tuple[list[Any], list[Any]]:
        self.maker = ExampleMaker(self.inputs, self._templates(items.train), self.max_length)
        encoder = AnswerEncoder(self.tokenizer, self.maker, self.sampled)
        train = self._fitting(items.train, encoder, self.maker.train)
        held = self._fitting(items.eval, encoder, self.maker.eval)
        self._stop_if_too_many(len(items.train))
        if items.eval and not held:
            raise self._empty(self.source.eval, self.no_room.format(self.max_length))
        return train, held

    def _fitting(self, items: Sequence[Item], encoder: AnswerEncoder, tally: Tally) -> list[Any]:
        kept = []
        for item, answers in zip(items, encoder.encode(items), strict=True):
            if isinstance(answers, BadRow):
                self.source.bad.add(item.row, str(answers))
                continue
            tally.foreign += answers.foreign
            if example := self._example(item, answers, tally):
                kept.append(example)
            else:
                tally.dropped.append(item.row)
        self.source.bad.stop_if_too_many()
        return kept

    def _stop_if_too_many(self, rows: int) -> None:
        """Refuse to leave out more than a tenth of the training rows, with `error` any."""
        tally, error = self.maker.train, self.data.long == "error"
        lost = len(tally.dropped)
        if lost > (0 if error else MAX_LOST_SHARE) * rows or lost >= rows:
            raise DataError(
                f"{lost} of {rows} training rows ({lost / rows:.0%}) are left out: {self.what} "
                f"longer than {self.max_length} tokens are never cut",
                f"the longest has {tally.longest} tokens; e.g. {', '.join(tally.dropped[:3])}",
                self._room(tally.longest),
            )

    def _report(
        self, items: Split[Item], train: Sequence[Any], held: Sequence[Any]
    ) -> dict[str, Any]:
        report = {
            **self.source.facts(lambda source: source.fit.used),
            "skipped": skipped(self.source.bad),
            "max_length": self.max_length,
            **chat_facts(self.maker),
            "truncated_rows": 0,
            "dropped_too_long": len(self.maker.train.dropped),
            "eval_dropped_too_long": len(self.maker.eval.dropped),
            **token_facts(self.maker),
            **items.facts,
            "rows_train": len(train),
            "rows_eval": len(held),
            "examples_train": len(train),
            **self._counts(train, held),
        }
        report["warnings"] = warnings_of(report, WARNED)
        return report

    def _tokens(self, train: Sequence[Any]) -> dict[str, Any]:
        return {
            "tokens": sum(example.num_tokens for example in train),
            "longest": max(len(example.input_ids) for example in train),
            **self._format_facts(),
            "tokens_sha256": sequences_sha256(n for each in train for n in each.numbers),
        }

    def preview(self) -> tuple[list[Preview], list[str]]:
        """Return the prompts, with their answers where the rows have them, better ones first."""
        shown = []
        for row in self.prepare().train:
            asked = str(self.tokenizer.decode(row.prompt_ids))
            prompt = Part("", "prompt", asked, learned=False, weight=0.0)
            if not row.answers:
                shown.append(Preview(row.row, [prompt], row.num_tokens, False, row.prompt_ids))
            for number, ids in enumerate(row.answers, 1):
                said = str(self.tokenizer.decode(ids[len(row.prompt_ids) :]))
                answer = Part("assistant", "answer", said, learned=True, weight=1.0)
                name = f"{row.row}, answer {number}"
                shown.append(Preview(name, [prompt, answer], len(ids), False, ids))
        return shown, []
