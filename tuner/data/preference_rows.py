"""Rows of preference data, each read as answers to one prompt, and which of them is better."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, takewhile
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.columns.preference_formats import PreferenceFit
from tuner.data.columns.text_lists import spread
from tuner.data.columns.thumb_words import liked, thumb
from tuner.data.columns.winners import better
from tuner.data.reading.read import Row
from tuner.data.rows.dialogue import Dialogue, Message
from tuner.data.rows.turns import Sides, blank
from tuner.data.tokens.answer_encoder import PromptAndAnswers
from tuner.data.turns.turn_rules import TurnRules
from tuner.recipe.schema import DataSection

ANSWER_KEYS = ("text", "content", "answer", "response", "completion", "output")
SCORE_KEYS = ("score", "overall_score", "rating", "reward")
LARGEST = 1e300


Pairs = tuple[tuple[int, int, float], ...]
# Of a pair, in the place of an answer: a score of 0.
ZERO = -1


@dataclass(frozen=True)
class Comparison(PromptAndAnswers):
    """Answers to one prompt, and which is better than which.

    Args:
        pairs: (better, worse, margin), indices into `dialogues` or `ZERO`; the margin is 0
            or more.
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


class PreferenceReader:
    """Reads the rows of a file.

    Args:
        fit: the format and its columns.
        data: the file's data section; its system turn and instruction are read, and its names of
            labels for thumbs in other words.
        earlier: read turns as an earlier version read them.
    """

    def __init__(self, fit: PreferenceFit, data: DataSection, earlier: bool = False) -> None:
        rules = TurnRules(system=data.system, instruction=data.instruction, earlier=earlier)
        self._fit, self._sides = fit, Sides(rules, fit.spoken)
        names = data.label_names if isinstance(data.label_names, dict) else {}
        self._names = {thumb(label): name for label, name in names.items()}

    def pair(self, row: Row) -> Comparison:
        """Read a row with a chosen and a rejected answer.

        Raises:
            BadRow: this and the other methods: the row is malformed, or contradicts itself.
        """
        given = self._fit.value(row, "margin")
        margin = 0.0 if blank(given) else _number(given, "margin")
        if margin < 0:
            raise BadRow("margin is negative")
        self._refuse_lower(row, "chosen", "rejected")
        return self._two(row, "chosen", "rejected", margin)

    def winner(self, row: Row) -> Comparison:
        """Read two answers, of which a column names the better one; a tie has no pair."""
        one, other = (f"answer_{side}" for side in self._fit.template.pair)
        number = better(self._fit.value(row, "winner"), self._fit.winners)
        if number is None:
            return replace(self._two(row, one, other), pairs=())
        first, second = (one, other) if number == 0 else (other, one)
        self._refuse_lower(row, first.removeprefix("answer_"), second.removeprefix("answer_"))
        return self._two(row, first, second)

    def scored_pair(self, row: Row) -> Comparison:
        """Read two answers with a score each; equal scores make no pair."""
        sides = self._fit.template.pair
        one, other = (
            _number(self._fit.required(row, f"score_{each}"), "a score") for each in sides
        )
        names = [f"answer_{each}" for each in sides]
        first, second = names if one >= other else names[::-1]
        found = self._two(row, first, second, abs(one - other))
        return replace(found, pairs=()) if one == other else found

    def ranking(self, row: Row) -> Comparison:
        """Read answers, best first, or each with its rank."""
        answers = self._answers(row)
        if any(_score(answer) is not None for answer in answers):
            raise BadRow("some answers in the file have scores and some do not")
        answers = _ranked(answers, self._fit.value(row, "ranks"))
        dialogues = self._dialogues(row, answers)
        if len({last_turn(dialogue) for dialogue in dialogues}) < len(dialogues):
            raise BadRow("two answers of a ranking are the same")
        pairs = combinations(range(len(dialogues)), 2)
        return Comparison(dialogues, tuple((better, worse, 0.0) for better, worse in pairs))

    def scores(self, row: Row) -> Comparison:
        """Read answers with a score each; the margins are plain differences."""
        answers = self._answers(row)
        given = self._fit.value(row, "scores")
        if given is None:
            given = [_score(answer) for answer in answers]
            if None in given:
                raise BadRow("there are answers without a score")
        if not isinstance(given, list) or len(given) != len(answers):
            raise BadRow("the number of scores is not the number of answers")
        scores = [_number(score, "a score") for score in given]
        dialogues = self._dialogues(row, answers)
        said = {(last_turn(each), score) for each, score in zip(dialogues, scores, strict=True)}
        if len(said) > len({last_turn(each) for each in dialogues}):
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
        value = self._fit.required(row, "label")
        good = liked(self._names.get(thumb(value), value), self._fit.columns["label"])
        if good is None:
            raise BadRow(
                "the label says neither liked nor disliked (true or false, 1 or 0, good or bad; "
                "other words by data.label_names: {great: good, poor: bad})"
            )
        row = self._turn_by_turn(row)
        prompt, answer = self._prompt(row), self._fit.value(row, "completion")
        if answer is None:
            if not self._sides.ends_with_answer(prompt):
                answer = self._fit.required(row, "completion")
            return self._dialogue(row, [], prompt, "the conversation"), good
        return self._dialogue(row, prompt, answer, "completion"), good

    def _two(self, row: Row, first: str, second: str, margin: float = 0.0) -> Comparison:
        """The answers in two columns, the first of them the better one."""
        row = self._turn_by_turn(row)
        prompt = self._prompt(row)
        sides = [self._fit.required(row, name) for name in (first, second)]
        names = (first, second)
        if not prompt and not any(map(self._sides.has_turns, sides, names)):
            asked, *sides = _parted(*sides)
            prompt = self._sides.prompt(asked)
        one, other = (
            self._dialogue(row, prompt, side, self._called(name))
            for name, side in zip(names, sides, strict=True)
        )
        if stripped(one)[:-1] != stripped(other)[:-1]:
            raise BadRow(f"the prompts of {self._called(first)} and {self._called(second)} differ")
        if last_turn(one) == last_turn(other):
            raise BadRow(f"{self._called(first)} and {self._called(second)} are the same")
        return Comparison((one, other), ((0, 1, margin),))

    def _turn_by_turn(self, row: Row) -> Row:
        """The row with turns in place of lists of texts."""
        return replace(row, values=spread(row, self._fit.texts)) if self._fit.lists else row

    def _called(self, name: str) -> str:
        """A column's name for messages."""
        return name if name in ("chosen", "rejected") else self._fit.columns[name]

    def _refuse_lower(self, row: Row, better: str, worse: str) -> None:
        """Refuse a better answer whose score is the lower one."""
        given = [self._fit.value(row, f"score_{each}") for each in (better, worse)]
        if any(map(blank, given)):
            return
        one, other = (_number(each, "a score") for each in given)
        if one < other:
            raise BadRow("the better answer has the lower score")

    def _answers(self, row: Row) -> list[Any]:
        answers = self._fit.required(row, "answers")
        if not isinstance(answers, list):
            raise BadRow("answers is not a list")
        if len(answers) < 2:
            raise BadRow("there are fewer than two answers")
        return answers

    def _dialogues(self, row: Row, answers: Sequence[Any]) -> tuple[Dialogue, ...]:
        prompt = self._prompt(row)
        if not prompt:
            self._fit.required(row, "prompt")
        texts = [_text(answer) for answer in answers]
        return tuple(self._dialogue(row, prompt, text, "an answer") for text in texts)

    def _prompt(self, row: Row) -> list[Message]:
        value, more, history = (self._fit.value(row, n) for n in ("prompt", "input", "history"))
        return self._sides.prompt(value, more, history)

    def _dialogue(self, row: Row, prompt: list[Message], answer: Any, name: str) -> Dialogue:
        extras = {each: self._fit.value(row, each) for each in ("system", "tools")}
        return self._sides.dialogue(row, prompt, answer, name, extras)


def _score(answer: Any) -> Any:
    """An answer's score, where it comes with one."""
    if not isinstance(answer, dict):
        return None
    return next((answer[key] for key in SCORE_KEYS if answer.get(key) is not None), None)


def _ranked(answers: list[Any], ranks: Any) -> list[Any]:
    """The answers, best first."""
    if ranks is None:
        if not any(isinstance(answer, dict) and "rank" in answer for answer in answers):
            return answers
        ranks = [answer.get("rank") if isinstance(answer, dict) else None for answer in answers]
    if not isinstance(ranks, list) or len(ranks) != len(answers):
        raise BadRow("the number of ranks is not the number of answers")
    numbers = [_number(rank, "a rank") for rank in ranks]
    if len(set(numbers)) < len(numbers):
        raise BadRow("two answers have the same rank")
    return [answer for _, answer in sorted(zip(numbers, answers, strict=True), key=lambda x: x[0])]


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


def last_turn(dialogue: Dialogue) -> str:
    """Return the last turn, for comparison."""
    return json.dumps(stripped(dialogue)[-1], sort_keys=True)


def stripped(dialogue: Dialogue) -> list[Message]:
    """Return the turns without outer white space."""
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
