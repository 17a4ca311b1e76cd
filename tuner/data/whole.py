"""Prompts, and answers to them, which are kept whole or left out, never cut."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

from tuner.data.bad_rows import BadRow
from tuner.data.pipeline import Pipeline
from tuner.data.preview_parts import spelled_out
from tuner.data.report import chat_facts, sequences_sha256, skipped, token_facts, warnings_of
from tuner.data.split import Split
from tuner.data.templates.template import Template
from tuner.data.tokens.answer_encoder import AnswerEncoder, Answers, PromptAndAnswers
from tuner.data.tokens.example_maker import MAX_LOST_SHARE, ExampleMaker
from tuner.data.tokens.long import chosen_length
from tuner.data.tokens.prepared import Inputs, Part, Prepared, Preview
from tuner.data.tokens.tally import Tally
from tuner.data.turns.turn_rules import refuse_rules
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema_rows import share_of

WARNED = (
    *("read_as", "files_not_read", "rows_by_value", "rows_of_items"),
    *("skipped", "ignored_columns", "dropped_too_long", "eval_dropped_too_long"),
    *("documents_cut", "rows_without_oldest_turns"),
    *("eval_rows_also_in_train", "rows_with_written_stops", "special_tokens_in_text"),
    *("tied_rows", "unrated_rows", "thumbs_alone", "pairs_as_thumbs"),
    *("unpaired_rows", "identical_answers", "contradicting_pairs", "pairs_too_long", "blank_rows"),
)


Item = TypeVar("Item", bound=PromptAndAnswers)


class WholePipeline(Pipeline[Item]):
    """Prepares items that stay whole: those that are too long are left out, if they are few.

    Attributes:
        what: what may be too long, for messages.
        no_room: why no held-out item is left.
        sampled: the model answers these prompts by itself, or scores such answers.
        stay: what is never cut, for messages; None: prompts are.

    Raises:
        RecipeError: `data.long` is truncate or split, or `data.cut` or a share in `max_length` asks
            to cut.
    """

    what: str
    no_room: str
    sampled = True
    stay: str | None = "preferences"

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        if self.data.long in ("truncate", "split"):
            raise RecipeError(
                f"data.long: {self.data.long}, but preferences and prompts are never cut",
                "a cut prompt asks something else, and a cut answer says something else",
                "leave data.long out (rows that do not fit are dropped, if few), or set it to "
                "error",
            )
        refused = ("answer",) if self.stay is None else ("answer", "document", "oldest_turns")
        if self.data.cut in refused or share_of(self.data.max_length):
            key = "cut" if self.data.cut in refused else "max_length"
            said = getattr(self.data, key)
            raise RecipeError(
                f"data.{key}: {said}, but {self.stay or 'answers'} are never cut",
                "a cut prompt asks something else, and a cut answer says something else",
                f"leave data.{key} out: rows that do not fit are dropped, if few",
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
            raise DataError(
                "the eval split is empty",
                self.no_room.format(self.max_length),
                f"{self._room(self.maker.eval.longest)}; or data.eval: 0",
            )
        return train, held

    def _fitting(self, items: Sequence[Item], encoder: AnswerEncoder, tally: Tally) -> list[Any]:
        kept = []
        for item, answers in zip(items, encoder.encode(items), strict=True):
            if isinstance(answers, BadRow):
                self.source.bad.add(item.row, str(answers))
                continue
            tally.foreign += answers.foreign
            item, answers = self._cut(item, answers, encoder, tally)
            if example := self._example(item, answers, tally):
                kept.append(example)
            else:
                tally.dropped.append(item.row)
        self.source.bad.stop_if_too_many()
        return kept

    def _cut(
        self, item: Item, answers: Answers, encoder: AnswerEncoder, tally: Tally
    ) -> tuple[Item, Answers]:
        """What `data.cut` leaves of an item that is too long; the item itself if nothing can be."""
        return item, answers

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
        longest = max(len(each.input_ids) for each in train)
        whole = not self.maker.train.shortened
        length, why = chosen_length(self.data, longest, self.max_length, whole)
        report = {
            **self.source.facts(lambda source: source.fit.used),
            "skipped": skipped(self.source.bad),
            "max_length": length,
            "fitting": {
                "max_length": why,
                "cut": "drop" if self.stay else "document",
                "cut_why": f"{self.stay} stay whole" if self.stay else "else they are left out",
            },
            **chat_facts(self.maker),
            "truncated_rows": 0,
            "documents_cut": len(self.maker.train.documents),
            "rows_without_oldest_turns": len(self.maker.train.turns),
            "eval_documents_cut": len(self.maker.eval.documents),
            "eval_rows_without_oldest_turns": len(self.maker.eval.turns),
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

    def _previews(self, prepared: Prepared, count: int) -> list[Preview]:
        """The prompts, with their answers where the rows have them, better ones first."""
        shown, seen = [], Counter[int]()
        for row in prepared.train:
            seen[row.task] += 1
            if seen[row.task] > count:
                continue
            prompt = self._parts(Part("", "prompt", "", learned=False, weight=0.0), row.prompt_ids)
            if not row.answers:
                shown.append(Preview(row.row, prompt, row.num_tokens, False, row.prompt_ids))
            for number, ids in enumerate(row.answers, 1):
                answer = Part("assistant", "answer", "", learned=True, weight=1.0)
                parts = prompt + self._parts(answer, ids[len(row.prompt_ids) :])
                name = f"{row.row}, answer {number}{_rank(row, number - 1)}"
                shown.append(Preview(name, parts, len(ids), False, ids))
        return shown

    def _parts(self, part: Part, ids: Sequence[int]) -> list[Part]:
        words = self.maker.encoder.control_words
        return spelled_out(part, ids, words, lambda each: str(self.tokenizer.decode(each)))


def _rank(row: Any, number: int) -> str:
    """How an answer compares with the others to its prompt, for a title."""
    pairs = getattr(row, "pairs", ())
    better, worse = (sum(pair[side] == number for pair in pairs) for side in (0, 1))
    if better and worse:
        return f": better than {better}, worse than {worse}"
    return ": better" if better else ": worse" if worse else ""
