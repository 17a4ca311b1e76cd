"""Preference data: comparisons to token ids, held out by prompt."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuner.data.columns.evidence import Evidence
from tuner.data.columns.preference_formats import PreferenceFit, choose_format
from tuner.data.comparisons import Compared, compare
from tuner.data.preference_rows import ZERO, Comparison
from tuner.data.reading.read import Row
from tuner.data.rows.dialogue import Message
from tuner.data.sources.source import EVIDENCE, Source, SplitFiles
from tuner.data.sources.split_column import refuse_trained_tests
from tuner.data.templates.template import Template, load_template
from tuner.data.tokens.answer_encoder import Answers
from tuner.data.tokens.prepared import Inputs, Prepared, PromptFormat
from tuner.data.tokens.tally import Tally
from tuner.data.understood import compared, of_sources
from tuner.data.whole import WholePipeline
from tuner.errors import DataError


@dataclass(frozen=True)
class Ranking:
    """One prompt with its answers, and which of them is better than which.

    Args:
        row: file name and line, for messages.
        answers: token ids of prompt and answer, whole, each ending with the answer's stop token.
        pairs: (better, worse, margin), indices into `answers`, or `ZERO` for a score of 0; every
            answer is in a pair.
        prompt_ids: what every one of `answers` begins with.
        messages: the turns of the prompt.
        prompt_text: the last user turn, for readers.
        texts: the answers as text.
        task: which of the recipe's files it comes from.
    """

    row: str
    answers: tuple[list[int], ...]
    pairs: tuple[tuple[int, int, float], ...]
    prompt_ids: list[int]
    messages: tuple[Message, ...]
    prompt_text: str
    texts: tuple[str, ...]
    task: int = 0

    def apart(self) -> list[Ranking]:
        """Return each of its pairs alone, the better answer first."""
        return [
            replace(
                self,
                answers=(self.answers[better], self.answers[worse]),
                pairs=((0, 1, margin),),
                texts=(self.texts[better], self.texts[worse]),
            )
            for better, worse, margin in self.pairs
        ]

    def blank(self) -> Ranking:
        """Return a short row that adds nothing to the loss: it has no pair."""
        return replace(self, answers=(self.answers[0][:2],), pairs=(), texts=self.texts[:1])

    @property
    def input_ids(self) -> list[int]:
        """The longest of the answers."""
        return max(self.answers, key=len)

    @property
    def reference(self) -> str:
        """The preferred answer of the first pair; empty for a disliked one alone."""
        better = self.pairs[0][0]
        return "" if better == ZERO else self.texts[better]

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(map(len, self.answers))

    @property
    def num_targets(self) -> int:
        """A prompt counts once, however many pairs it has."""
        return 1

    @property
    def numbers(self) -> list[Sequence[int]]:
        """All that is learned, as whole numbers; margins by their bits."""
        margins = [struct.unpack("<q", struct.pack("<d", m))[0] for _, _, m in self.pairs]
        places = [place for better, worse, _ in self.pairs for place in (better, worse)]
        return [[self.task], self.prompt_ids, *self.answers, places, margins]

    @property
    def num_answer_tokens(self) -> int:
        """Tokens of the answers without their prompt."""
        return self.num_tokens - len(self.answers) * len(self.prompt_ids)


def asked(messages: Sequence[Message]) -> str:
    """Return the last user turn; empty if there is none."""
    return next((str(m.get("content")) for m in reversed(messages) if m["role"] == "user"), "")


class PreferenceData(WholePipeline[Comparison]):
    """Prepares `Ranking`s.

    Answers are never cut: one that is longer than `data.max_length` is left out with its pairs, and
    a row that has no pair left is dropped.

    Args:
        inputs: the rows, and what they are prepared with.
        apart: make a training row of each pair.
        alone: learn thumbs whose prompt has no opposite one, too.
    """

    likely = ("prompt", "chosen", "rejected")
    what = "answers"
    no_room = "no held-out row fits into data.max_length {}"

    def __init__(self, inputs: Inputs, apart: bool = False, alone: bool = False) -> None:
        super().__init__(inputs)
        self._apart, self._alone = apart, alone
        self.sampled = not apart
        self._compared: dict[str, Compared] = {}

    def prepare(self) -> Prepared:
        """Read, pair, check, split by prompt and tokenize the rows; see `Pipeline.prepare`."""
        found = super().prepare()
        if not self._apart:
            return found
        rows = [pair for ranking in found.train for pair in ranking.apart()]
        return replace(found, train=rows, report={**found.report, "examples_train": len(rows)})

    def _sent(self, items: Sequence[Comparison]) -> PromptFormat:
        if self.sampled:
            return PromptFormat()
        reasons = self.maker.reasons(each.better for each in items)
        return PromptFormat(self.maker.defaults(reasons), self.maker.plain_template)

    def _fit(self, source: Source) -> PreferenceFit:
        if "eval" not in source.given and not self.inputs.formats:
            refuse_trained_tests(source, self.data)
        source.evidence = Evidence([row.values for row in source.rows[:EVIDENCE]])
        return choose_format(source.data, source.columns, source.rows)

    def _row_key(self, source: Source, row: Row) -> Any:
        # Liked and disliked answers to a prompt are rows of their own, and pairs together.
        thumbs = source.fit.template.name == "thumbs"
        return source.fit.value(row, "prompt") if thumbs else row.values

    def _items(self, files: SplitFiles) -> list[Comparison]:
        self._compared[files.name] = compare(
            files.sources, self.source, self._alone, self.inputs.earlier_turns
        )
        return self._compared[files.name].comparisons

    def _refuse_empty(self, files: SplitFiles, found: Collection[Any]) -> None:
        pairs = self._compared.get(files.name)
        if pairs and (rows := pairs.without_pair) and not found:
            thumbs = any(fit.template.name == "thumbs" for fit in self.fits)
            raise DataError(
                f"the {files.name} split has no preferences: none of its {rows} rows can be paired",
                "a pair needs a better and a worse answer to exactly the same prompt",
                "add answers of both kinds to the same prompts"
                + ("; tuner reward also learns them alone (reward.unpaired: learn)" * thumbs),
            )
        super()._refuse_empty(files, found)

    def _templates(self, items: Sequence[Comparison]) -> list[Template]:
        """The template whose plain rendering (data.render: raw) these rows have."""
        plain = all(
            isinstance(source.fit.value(row, "prompt"), str)
            for source in self.source.sources
            for row in source.rows
        )
        alone = all(
            sum(message["role"] != "system" for message in comparison.prompt) == 1
            for comparison in items
        )
        name = "prompt_completion" if plain and alone else "chat"
        return [load_template(name, self.inputs.folder)]

    def _example(self, item: Comparison, answers: Answers, tally: Tally) -> Ranking | None:
        """The answers that fit and their pairs; None if no pair is left."""
        ranking = _ranking(item, answers, self.max_length)
        total = sum(len(ids) - len(answers.prompt_ids) for ids in answers.wholes)
        kept = ranking.num_answer_tokens if ranking else 0
        tally.longest = max(tally.longest, *map(len, answers.wholes))
        tally.supervised_kept += kept
        tally.supervised_cut += total - kept
        tally.pairs += len(item.pairs) - (len(ranking.pairs) if ranking else 0)
        return ranking

    def _room(self, longest: int) -> str:
        room = self.inputs.context_length
        if longest <= room:
            return f"set data.max_length: {longest} (the longest answer with its prompt)"
        return f"shorten these rows or leave them out: the model's context is {room} tokens"

    def _counts(self, train: Sequence[Ranking], held: Sequence[Ranking]) -> dict[str, Any]:
        splits = self._compared.values()
        return {
            "understood": of_sources(self.source.sources, lambda source: source.fit.used, compared),
            "pairs_train": sum(len(ranking.pairs) for ranking in train),
            "pairs_eval": sum(len(ranking.pairs) for ranking in held),
            "unpaired_rows": sum(len(each.unpaired) for each in splits),
            "thumbs_alone": sum(each.alone for each in splits),
            "unrated_rows": sum(each.unrated for each in splits),
            "tied_rows": sum(each.ties for each in splits),
            "identical_answers": sum(each.identical for each in splits),
            "contradicting_pairs": sum(each.contradicting for each in splits),
            **self._tokens(train),
            "pairs_too_long": self.maker.train.pairs + self.maker.eval.pairs,
        }


def _ranking(comparison: Comparison, answers: Answers, max_length: int) -> Ranking | None:
    """The answers that fit whole and their pairs; None if no pair is left."""
    fitting = {
        number
        for number, (ids, dialogue) in enumerate(
            zip(answers.wholes, comparison.dialogues, strict=True)
        )
        if len(ids) <= max_length and not dialogue.cut_characters
    }
    pairs = [pair for pair in comparison.pairs if {pair[0], pair[1]} <= {*fitting, ZERO}]
    if not pairs:
        return None
    used = sorted({number for better, worse, _ in pairs for number in (better, worse)} - {ZERO})
    places = {ZERO: ZERO} | {number: place for place, number in enumerate(used)}
    return Ranking(
        comparison.row,
        tuple(answers.wholes[number] for number in used),
        tuple((places[better], places[worse], margin) for better, worse, margin in pairs),
        answers.prompt_ids,
        comparison.prompt,
        asked(comparison.prompt),
        tuple(comparison.dialogues[number].answer for number in used),
        comparison.dialogues[0].source,
    )
