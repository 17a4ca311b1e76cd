"""Rows of preference data to comparisons: a prompt, its answers, and which is better than which."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, takewhile
from typing import Any

from tuner.data.answer_encoder import PromptAndAnswers
from tuner.data.bad_rows import BadRow
from tuner.data.dialogue import Dialogue, Message
from tuner.data.files import DataSource, Source
from tuner.data.preference_formats import PreferenceFormat
from tuner.data.read import Row
from tuner.data.template_match import Fit
from tuner.data.turns import Sides, blank, transcript
from tuner.recipe.schema import DataSection

Pairs = tuple[tuple[int, int, float], ...]
ANSWER_KEYS = ("text", "content", "answer")
LARGEST = 1e300
LIKED = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Comparison(PromptAndAnswers):
    """Answers to one prompt, and which is better than which.

    Args:
        pairs: (better, worse, margin), indices into `dialogues`; the margin is 0 or more.
    """

    pairs: Pairs

    @property
    def better(self) -> Dialogue:
        """The better side of the first pair."""
        return self.dialogues[self.pairs[0][0]]

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the answers."""
        return self.dialogues[0].messages[:-1]

    @property
    def mark(self) -> str:
        """Fingerprint of the prompt."""
        return replace(self.dialogues[0], messages=self.prompt).mark


@dataclass
class Compared:
    """The comparisons of one split.

    Args:
        comparisons: each with at least one pair.
        unpaired: rows that make no pair.
        identical: thumbs that repeat or contradict another row with the same answer.
        contradicting: pairs that another row has in the opposite order; neither is used.
    """

    comparisons: list[Comparison]
    unpaired: list[str]
    identical: int = 0
    contradicting: int = 0


def compare(sources: Sequence[Source], files: DataSource) -> Compared:
    """Make the comparisons of a split; bad rows are recorded by the files.

    A ranking of K answers makes K(K-1)/2 pairs. Scores make a pair wherever they differ; its margin
    is the difference, divided by the largest in the source. Of thumbs, every liked answer makes a
    pair with every disliked one to exactly the same prompt.
    """
    thumbs: list[tuple[Dialogue, bool]] = []
    pairs: list[Comparison] = []
    others: list[Comparison] = []
    for source in sources:
        if not source.rows:
            continue
        reader, name = _Reader(source.fit, source.data), source.fit.template.name
        if name == "thumbs":
            thumbs += files.each(source.rows, reader.thumb)
        elif name == "pairs":
            pairs += files.each(source.rows, reader.pair)
        elif name == "rankings":
            others += files.each(source.rows, reader.ranking)
        else:
            others += _scaled(files.each(source.rows, reader.scores))
    grouped, consistent = _grouped(thumbs), _consistent(pairs)
    return Compared(
        [*grouped.comparisons, *consistent.comparisons, *(each for each in others if each.pairs)],
        grouped.unpaired + [each.row for each in others if not each.pairs],
        grouped.identical,
        consistent.contradicting,
    )


class _Reader:
    """Reads rows of one format."""

    def __init__(self, fit: Fit[PreferenceFormat], data: DataSection) -> None:
        self._fit, self._sides = fit, Sides(data.system, data.instruction)

    def pair(self, row: Row) -> Comparison:
        """Read a row with a chosen and a rejected answer."""
        given = self._fit.value(row, "margin")
        margin = 0.0 if blank(given) else _number(given, "margin")
        if margin < 0:
            raise BadRow("margin is negative")
        prompt = self._fit.value(row, "prompt")
        sides = [self._fit.required(row, name) for name in ("chosen", "rejected")]
        if blank(prompt) and all(isinstance(side, str) and not transcript(side) for side in sides):
            prompt, *sides = _parted(*sides)
        chosen, rejected = (
            self._dialogue(row, prompt, side, name)
            for name, side in zip(("chosen", "rejected"), sides, strict=True)
        )
        if _stripped(chosen)[:-1] != _stripped(rejected)[:-1]:
            raise BadRow("the prompts of chosen and rejected differ")
        if _told(chosen) == _told(rejected):
            raise BadRow("chosen and rejected are the same")
        return Comparison((chosen, rejected), ((0, 1, margin),))

    def ranking(self, row: Row) -> Comparison:
        """Read answers, best first."""
        answers = self._answers(row)
        if any(isinstance(answer, dict) and "score" in answer for answer in answers):
            raise BadRow("some answers in the file have scores and some do not")
        dialogues = self._dialogues(row, answers)
        if len({_told(dialogue) for dialogue in dialogues}) < len(dialogues):
            raise BadRow("two answers of a ranking are the same")
        pairs = combinations(range(len(dialogues)), 2)
        return Comparison(dialogues, tuple((better, worse, 0.0) for better, worse in pairs))

    def scores(self, row: Row) -> Comparison:
        """Read answers with a score each; the margins are plain differences."""
        answers = self._answers(row)
        given = self._fit.value(row, "scores")
        if given is None:
            if not all(isinstance(answer, dict) and "score" in answer for answer in answers):
                raise BadRow("there are answers without a score")
            given = [answer["score"] for answer in answers]
        if not isinstance(given, list) or len(given) != len(answers):
            raise BadRow("the number of scores is not the number of answers")
        scores = [_number(score, "a score") for score in given]
        dialogues = self._dialogues(row, answers)
        said = {(_told(each), score) for each, score in zip(dialogues, scores, strict=True)}
        if len(said) > len({_told(each) for each in dialogues}):
            raise BadRow("one answer has two scores")
        pairs = [
            (one, other, scores[one] - scores[other])
            if scores[one] > scores[other]
            else (other, one, scores[other] - scores[one])
            for one, other in combinations(range(len(scores)), 2)
            if scores[one] != scores[other]
        ]
        return Comparison(dialogues, tuple(pairs))

    def thumb(self, row: Row) -> tuple[Dialogue, bool]:
        """Read an answer and whether it is liked."""
        label = self._fit.required(row, "label")
        liked = LIKED.get(str(label).strip().lower())
        if liked is None:
            raise BadRow("the label is neither true nor false")
        prompt, answer = self._fit.required(row, "prompt"), self._fit.value(row, "completion")
        if answer is None:
            if not self._sides.ends_with_answer(self._sides.prompt(prompt)):
                answer = self._fit.required(row, "completion")
            return self._dialogue(row, None, prompt, "the conversation"), liked
        return self._dialogue(row, prompt, answer, "completion"), liked

    def _answers(self, row: Row) -> list[Any]:
        answers = self._fit.required(row, "answers")
        if not isinstance(answers, list):
            raise BadRow("answers is not a list")
        if len(answers) < 2:
            raise BadRow("there are fewer than two answers")
        return answers

    def _dialogues(self, row: Row, answers: Sequence[Any]) -> tuple[Dialogue, ...]:
        prompt = self._fit.required(row, "prompt")
        texts = [_text(answer) for answer in answers]
        return tuple(self._dialogue(row, prompt, text, "an answer") for text in texts)

    def _dialogue(self, row: Row, prompt: Any, answer: Any, name: str) -> Dialogue:
        extras = {each: self._fit.value(row, each) for each in ("system", "tools")}
        return self._sides.dialogue(row, prompt, answer, name, extras)


def _consistent(pairs: Sequence[Comparison]) -> Compared:
    """The pairs without those that another row has in the opposite order."""
    said = [(each.mark, *(_told(dialogue) for dialogue in each.dialogues)) for each in pairs]
    swapped = {(mark, rejected, chosen) for mark, chosen, rejected in said}
    kept = [each for each, key in zip(pairs, said, strict=True) if key not in swapped]
    return Compared(kept, [], contradicting=len(pairs) - len(kept))


def _text(answer: Any) -> Any:
    """An answer's text, where it comes with a score."""
    if isinstance(answer, dict):
        answer = next((answer[key] for key in ANSWER_KEYS if key in answer), None)
    if not isinstance(answer, str):
        raise BadRow("an answer is not text")
    return answer


def _parted(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt that two whole texts begin with, up to a word's end, and what is left of each.

    Raises:
        BadRow: they begin differently, so that there is no prompt.
    """
    letters = zip(chosen, rejected, strict=False)
    alike = sum(1 for _ in takewhile(lambda two: two[0] == two[1], letters))
    while alike and not (chosen[alike - 1].isspace() or chosen[alike : alike + 1].isspace()):
        alike -= 1
    if blank(chosen[:alike]):
        raise BadRow(
            "there is no prompt: no column, no transcript, and chosen and rejected do not "
            "begin alike"
        )
    return chosen[:alike].strip(), chosen[alike:].strip(), rejected[alike:].strip()


def _told(dialogue: Dialogue) -> str:
    """The last turn, for comparison."""
    return json.dumps(_stripped(dialogue)[-1], sort_keys=True)


def _stripped(dialogue: Dialogue) -> list[Message]:
    """The turns without outer white space."""
    return [{**m, "content": (m.get("content") or "").strip()} for m in dialogue.messages]


def _number(value: Any, what: str) -> float:
    """A number whose differences are finite; tables hold numbers as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < LARGEST:
        raise BadRow(f"{what} is not a number")
    return number


def _scaled(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of a source with margins from 0 to 1, on its own scale."""
    largest = max((margin for each in found for _, _, margin in each.pairs), default=0.0)
    return [
        replace(each, pairs=tuple((b, w, m / largest) for b, w, m in each.pairs)) for each in found
    ]


def _grouped(thumbs: Sequence[tuple[Dialogue, bool]]) -> Compared:
    """Group liked and disliked answers to the same prompt."""
    groups: dict[str, list[tuple[Dialogue, bool]]] = {}
    for dialogue, liked in thumbs:
        key = json.dumps([_stripped(dialogue)[:-1], dialogue.tools], sort_keys=True)
        groups.setdefault(key, []).append((dialogue, liked))
    result = Compared([], [])
    for group in groups.values():
        opinions: dict[str, set[bool]] = {}
        for dialogue, liked in group:
            opinions.setdefault(_told(dialogue), set()).add(liked)
        kept = {_told(each): (each, liked) for each, liked in reversed(group)}
        clear = [kept[mark] for mark, said in opinions.items() if len(said) == 1]
        result.identical += len(group) - len(clear)
        pairs = tuple(
            (better, worse, 0.0)
            for better, (_, liked) in enumerate(clear)
            for worse, (_, other) in enumerate(clear)
            if liked and not other
        )
        if pairs:
            result.comparisons.append(Comparison(tuple(each for each, _ in clear), pairs))
        else:
            result.unpaired += [dialogue.row for dialogue, _ in group]
    return result
