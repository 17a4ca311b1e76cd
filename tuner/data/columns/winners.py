"""Which of two answers a column says is better: `1`, `b`, `model_a`, `tie`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.columns.preference_names import ANSWER
from tuner.errors import DataError
from tuner.schema.suggest import plain

_TIES = (
    *("", "tie", "tied", "draw", "equal", "same", "both", "neither", "none", "tie (bothbad)"),
    *("both bad", "both good", "平", "平局", "平手", "相同", "一样", "都好", "都差", "无"),
)
_FIRST = ("a", "first", "left", "甲", "一", "第一个")
_SECOND = ("b", "second", "right", "乙", "二", "第二个")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
_OPPOSITE = ("0", "1", "false", "true")
_BEFORE = ("", "model", "option", "assistant", "system", *ANSWER)


class NoneBetter(DataError):
    """The rows have two answers each, and which of them is the better one cannot be known."""


def meanings(
    values: Sequence[Any],
    pair: tuple[str, str],
    columns: tuple[str, str],
    winner: str,
    scores: Sequence[Sequence[Any]],
) -> dict[str, int | None]:
    """Return which answer each value names: 0 the first, 1 the second, None neither.

    Args:
        values: of the column that names the better answer.
        pair: what distinguishes the answers in the format.
        columns: the columns of the answers.
        winner: the column of the values.
        scores: of both answers, for each of the values; empty if there are none.

    Raises:
        NoneBetter: numbers count from 0 or from 1, and nothing says which; or no value names an
            answer.
    """
    said = {_word(value) for value in values}
    words = _words(values, said, pair, columns, winner, scores)
    strange = sorted(said - {*words})
    if strange and all(words.get(word) is None for word in said):
        one, other = columns
        raise NoneBetter(
            f"the column '{winner}' names neither of the two answers, {one} and {other}",
            f"its values are {', '.join(strange[:5])}{' ...' * (len(strange) > 5)}",
            f"write the better answer of each row into a column, as {one}, {other} or tie, and "
            "name it: data.columns: {winner: NAME}",
        )
    return words


def ends(one: str, other: str) -> tuple[str, str]:
    """Return what tells two names apart: gpt4 and llama, of gpt4_output and llama_output."""
    first, second = (re.split(r"[\s_.-]+", name) for name in (one, other))
    for place in (0, -1):
        while min(len(first), len(second)) > 1 and first[place] == second[place]:
            first.pop(place)
            second.pop(place)
    return plain(" ".join(first)), plain(" ".join(second))


def named_by(values: Mapping[str, Sequence[Any]]) -> tuple[str, str, str] | None:
    """Return two columns and the one whose values name one of them; None if there are none.

    Args:
        values: of each column.
    """
    for winner, each in values.items():
        said = {_word(value) for value in each} - {plain(word) for word in _TIES}
        if len(said) != 2 or not all(map(_names, said)):
            continue
        for one, other in combinations([name for name in values if name != winner], 2):
            if said in ({*ends(one, other)}, {plain(one), plain(other)}):
                return one, other, winner
    return None


def _names(word: str) -> bool:
    """Whether a word may name a column: it is no number, and no letter."""
    return len(word) > 1 and not word.isdecimal()


def _words(
    values: Sequence[Any],
    said: set[str],
    pair: tuple[str, str],
    columns: tuple[str, str],
    winner: str,
    scores: Sequence[Sequence[Any]],
) -> dict[str, int | None]:
    """What each word may mean; see `meanings`."""
    words: dict[str, int | None] = {plain(word): None for word in _TIES}
    for number, (own, others) in enumerate(zip(pair, (_FIRST, _SECOND), strict=True)):
        named = (*others, own) if own not in ("0", "1", "2") else others
        words |= {plain(before + word): number for word in named for before in _BEFORE}
        words[plain(columns[number])] = number
    if pair != ("a", "b"):
        words |= {plain(before + own): n for n, own in enumerate(pair) for before in _BEFORE[1:]}
    for number, word in enumerate(ends(*columns)):
        if _names(word):
            words.setdefault(word, number)
    _refuse_scale(said, winner)
    if pair != ("0", "1") and (seen := _by_scores(values, scores)):
        return words | seen
    words |= _numbers(said, pair, columns, winner, bool(scores))
    return words


def _by_scores(values: Sequence[Any], scores: Sequence[Sequence[Any]]) -> dict[str, int | None]:
    """What 0 and 1, or false and true, mean if the answer with the higher score is the better one
    in all rows; empty if that cannot be seen."""
    ways: set[bool] = set()
    found = [_word(value) for value in values]
    if not {*found} <= {*_OPPOSITE}:
        return {}
    for word, pair in zip(found, scores, strict=False):
        try:
            first, second = map(float, pair)
        except (TypeError, ValueError):
            continue
        if first != second:
            ways.add((second > first) == (word in ("1", "true")))
    if len(ways) != 1:
        return {}
    counts_from_0 = ways.pop()
    return {word: int((word in ("1", "true")) == counts_from_0) for word in _OPPOSITE}


def _numbers(
    said: set[str], pair: tuple[str, str], columns: tuple[str, str], winner: str, scored: bool
) -> dict[str, int | None]:
    """What the numbers among the values mean."""
    numbers = said & {"0", "1", "2", "true", "false"}
    if pair == ("0", "1") and not numbers & {"2", "true", "false"}:
        return {"0": 0, "1": 1}
    sure = "2" in numbers or pair == ("1", "2")
    if numbers <= {"1", "2"} and sure:
        return {"1": 0, "2": 1}
    if numbers == {"0", "1", "2"} and pair != ("0", "1"):
        return {"0": None, "1": 0, "2": 1}
    if not numbers:
        return {}
    one, other = columns
    lines = [
        f"data.columns: {{answer_0: {one}, answer_1: {other}, winner: {winner}}}   # 1: {other}",
        f"data.columns: {{answer_0: {other}, answer_1: {one}, winner: {winner}}}   # 1: {one}",
    ]
    if scored:
        lines.append("data.columns: {winner: none}   # the answer with the higher score")
    listed = ", ".join(sorted(numbers))
    if numbers & {"true", "false"}:
        lines = ["data.columns: {winner: NAME}   # a column with 1 and 2, or a and b"]
    raise NoneBetter(
        f"the column '{winner}' names the better of two answers in a way that can be read in two "
        "ways",
        f"its values are {listed}: they may count from 0 or from 1, or mean no and yes",
        "say which answer a number means:\n  " + "\n  ".join(lines),
    )


def _refuse_scale(said: set[str], winner: str) -> None:
    """Refuse numbers by which an answer is better to some degree."""
    numbers = {word for word in said if _NUMBER.fullmatch(word)}
    if numbers <= {"0", "1", "2"}:
        return
    listed = ", ".join(sorted(numbers, key=float))
    raise NoneBetter(
        f"the column '{winner}' holds a scale, and not which of two answers is better",
        f"its values are {listed}; which end belongs to which answer cannot be seen",
        "write the better answer of each row into a column, as 1, 2 or tie, and name it: "
        "data.columns: {winner: NAME}",
    )


def better(value: Any, words: Mapping[str, int | None]) -> int | None:
    """Return the number of the better answer; None if there is none.

    Raises:
        BadRow: the value names none of them.
    """
    word = _word(value)
    if word not in words:
        raise BadRow(f"the winner '{value}' is none of the two answers, and no tie")
    return words[word]


def _word(value: Any) -> str:
    """A value in small letters, without marks between words; a number keeps its sign."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return text if _NUMBER.fullmatch(text) else plain(text)
