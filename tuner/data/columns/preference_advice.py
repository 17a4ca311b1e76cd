"""What would make preference data of columns that fit none of its formats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from tuner.data.columns.evidence import Evidence, filled, kinds_of
from tuner.data.columns.preference_guess import guess
from tuner.data.columns.preference_names import ALIASES, ANSWER, NUMBERED, named, together
from tuner.data.columns.thumb_words import NAMES, liked, reversed_by
from tuner.data.columns.winners import NoneBetter, named_by
from tuner.data.reading.read import Row
from tuner.data.turns.turn_lists import shape
from tuner.errors import DataError
from tuner.schema.strict_yaml import flow
from tuner.schema.suggest import plain

RENAME = "rename columns in the file, or map them: data.columns: {format's name: file's name}"
# More words than these are no thumbs.
_MOST_WORDS = 6
_THUMBS = frozenset(map(plain, NAMES))
_SCORES = frozenset(
    plain(name)
    for name in (
        *("score", "rating", "quality", "helpfulness", "correctness", "coherence", "reward"),
        *("overall score", "overall rating", "quality score", "answer score", "response score"),
        *("stars", "评分", "得分", "分数", "打分"),
    )
)
# Rows by which columns of other names are guessed.
_LOOKED_AT = 1000
IN_ONE_ROW = (
    "to compare them, write those to one prompt into one row, with their scores: "
    '{"prompt": ..., "answers": ["...", "..."], "scores": [4, 1]}'
)


class Guessed(DataError):
    """No format knows the columns; `columns` says what they may be."""

    columns: Mapping[str, str] = {}


def nothing_fits(what: str, expected: Sequence[str], rows: Sequence[Row]) -> DataError:
    """Return the error about columns that fit no format, with what they may be instead.

    Args:
        what: what the formats are called.
        expected: what each of them expects.
        rows: of the file.
    """
    present = list(dict.fromkeys(name for row in rows for name in row.values))
    found = f"found: {', '.join(present) or 'no columns'}"
    for pair in NUMBERED:
        sides = together(present, pair).items()
        if answers := [file for name, file in sides if name.startswith("answer")]:
            scores = f"{{score_{pair[0]}: NAME, score_{pair[1]}: NAME}}"
            return NoneBetter(
                what,
                fix="name the column that says which of them is better, or those with their "
                "scores, of which the higher one is better:"
                f"\n  data.columns: {{winner: NAME}}\n  data.columns: {scores}",
                problems=[
                    found,
                    f"{' and '.join(answers)} are two answers, and none is called better",
                ],
            )
    values = filled(rows, present)
    if compared := named_by(values):
        one, other, winner = map(flow, compared)
        return NoneBetter(
            what,
            fix="say that these are the answers:"
            f"\n  data.columns: {{answer_a: {one}, answer_b: {other}, winner: {winner}}}",
            problems=[found, f"'{winner}' names {one} or {other}"],
        )
    asks, said = (_one(present, ALIASES[name]) for name in ("prompt", "completion"))
    if asks and said:
        if rated := [f"{name} ({ranged(values[name])})" for name in _scales(values)]:
            return DataError(
                "a comparison needs two answers to the same prompt, and each row has one",
                f"scores of one answer: {', '.join(rated)}",
                f"to learn the answers, '{said}' after '{asks}': tuner lora, or another method; "
                + IN_ONE_ROW,
            )
        if lines := [line for name in present for line in _as_thumbs(name, values[name])]:
            fix = "\n  ".join(["say which answers are liked:", *lines])
            return DataError(what, fix=fix, problems=[found, *expected])
    if columns := guess(Evidence([row.values for row in rows[:_LOOKED_AT]])):
        pairs = ", ".join(f"{name}: {flow(file)}" for name, file in columns.items())
        fix = f"if the names are right, say which column is which:\n  data.columns: {{{pairs}}}"
        error = Guessed(what, fix=fix, problems=[found])
        error.columns = columns
        return error
    return DataError(what, fix=RENAME, problems=[found, *expected])


def refuse_unanswered(prompt: str, free: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuse thumbs without a column of answers, unless the prompt's holds whole conversations.

    Args:
        prompt: the column of the prompt.
        free: the columns that nothing reads.
        rows: of the file.

    Raises:
        DataError: with a line for each column that may hold the answers.
    """
    values = filled(rows, (prompt, *free))
    asked = values[prompt]
    if not asked or shape(asked) or not all(isinstance(value, str) for value in asked):
        return
    texts = [
        name
        for name in free
        if len(values[name]) * 2 > len(rows)
        and all(isinstance(value, str) for value in values[name])
    ]
    stems = [plain(stem) for stem in ANSWER]
    called = [name for name in texts if any(stem in plain(name) for stem in stems)]
    lines = [f"data.columns: {{completion: {flow(name)}}}" for name in (called or texts)[:3]]
    raise DataError(
        "the rows have thumbs, and no column is read as the answers that they rate",
        f"the prompt is '{prompt}', a text; not read: {', '.join(free) or 'no other column'}",
        "name the column of the answers:\n  "
        + "\n  ".join(lines or ["data.columns: {completion: NAME}"]),
    )


def _one(present: Sequence[str], names: Sequence[str]) -> str | None:
    return next(named(present, names), None)


def _as_thumbs(name: str, values: Sequence[Any]) -> list[str]:
    """Lines of recipe that read a column as thumbs; none if it does not look like some."""
    words = sorted({str(value).strip() for value in values})
    known = all(liked(word, name) is not None for word in words)
    if known and len(words) == 2:
        yes = next((word for word in words if liked(word)), words[-1])
        what = "not liked" if reversed_by(name) else "liked"
        return [f"data.columns: {{label: {name}}}   # {yes}: {what}"]
    odd = known or not 1 < len(words) <= _MOST_WORDS or any("number" in kinds_of(w) for w in words)
    if plain(name) not in _THUMBS or odd:
        return []
    ways = permutations(words) if len(words) == 2 else [tuple(words)]
    return [
        f"data: {{columns: {{label: {name}}}, label_names: {{"
        f"{', '.join(f'{word}: {_opinion(place)}' for place, word in enumerate(way))}}}}}"
        for way in ways
    ]


def _opinion(place: int) -> str:
    return "bad" if place else "good"


def called_scores(values: Mapping[str, Sequence[Any]]) -> dict[str, list[float]]:
    """Return the numbers in columns that are called like the score of an answer, and hold nothing
    else.

    Args:
        values: of each column, without blank ones.
    """
    return {
        name: numbers
        for name, each in values.items()
        if plain(name) in _SCORES and each and (numbers := _numbers(each))
    }


def _scales(values: Mapping[str, Sequence[Any]]) -> list[str]:
    """The columns that hold numbers, if one of them is called like a score."""
    found = [name for name, each in values.items() if each and _numbers(each)]
    return found if called_scores(values) else []


def _numbers(values: Sequence[Any]) -> list[float]:
    """Values as numbers, also those of a table; none if one is something else."""
    found = []
    for value in values:
        try:
            found.append(math.nan if isinstance(value, bool) else float(value))
        except (TypeError, ValueError, OverflowError):
            return []
    return found if all(map(math.isfinite, found)) else []


def ranged(values: Sequence[Any]) -> str:
    """Return the lowest and the highest of some numbers, in words."""
    numbers = _numbers(values)
    return f"{min(numbers):g} to {max(numbers):g}"
