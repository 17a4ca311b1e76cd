"""RULES: rewards that need no model. One row a rule, from its options to its scorer.

A scorer gives one number a response, from the response alone: the same text always has the same
score, whatever else is in the batch.
"""

from __future__ import annotations

import json as json_reader
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from tuner.errors import DataError, TrainingError
from tuner.rewards import final_answer
from tuner.rewards.options import (
    ExactAnswerRule,
    ForbiddenRule,
    FormatRule,
    JsonRule,
    LengthRule,
    part_name,
)
from tuner.rewards.response import Response, Scorer, beginning

# A longer response never matches a format: patterns can need time that grows with its square.
MOST_CHARACTERS = 20_000
# Some patterns need time that doubles with every character; no useful one needs this long.
MOST_SECONDS = 2.0
_CHARACTER_WORDS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_CHARACTER_WORDS}]|[^\\s{_CHARACTER_WORDS}]+")
# Thai, Lao, Burmese, Khmer, Chinese, Japanese and Korean: no spaces mark where a word ends.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_SPACED = f"[^\\W{_UNSPACED}\U00020000-\U0003ffff]"
_FENCE = re.compile(r"```json[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def length(options: LengthRule) -> Scorer:
    """1 from min to max; n / min below it; above it 2 - n / max, never below 0."""

    def score(response: Response) -> float:
        size = response.num_tokens if options.unit == "tokens" else num_words(response.text)
        if size < options.min:
            return size / options.min
        return 1.0 if size <= options.max else max(0.0, 2.0 - size / options.max)

    return _each(score)


def num_words(text: str) -> int:
    """Words of a text, a Chinese or Japanese character being one; punctuation alone is none."""
    return sum(any(map(str.isalnum, word)) for word in _WORD.findall(text))


def matches_format(options: FormatRule) -> Scorer:
    """1 if the pattern matches the whole text, else 0; a text over MOST_CHARACTERS has 0.

    The pattern's dialect is that of the library `regex`: all of `re`, and a limit on the time.

    Raises:
        TrainingError: from the scorer, when the pattern takes more than MOST_SECONDS on a text.
    """
    import regex  # type: ignore[import-untyped]

    pattern = regex.compile(options.pattern, regex.DOTALL)

    def score(response: Response) -> float:
        if len(response.text) > MOST_CHARACTERS:
            return 0.0
        try:
            return float(pattern.fullmatch(response.text, timeout=MOST_SECONDS) is not None)
        except TimeoutError:
            raise TrainingError(
                f"the reward '{part_name(options)}' took more than {MOST_SECONDS:g} s for row "
                f"{response.row}",
                f"its pattern {options.pattern!r} tries too many ways to match "
                f"{beginning(response.text)}",
                "write repeats that cannot share text: (?>...), a++, or [^,]* in place of .*",
            ) from None

    return _each(score)


def forbidden(options: ForbiddenRule) -> Scorer:
    """-1 if any of the words occurs, else 0.

    A word is found as a whole word; where it begins or ends with a character of a script without
    spaces, such as Chinese, it need not stand apart there.
    """
    flags = re.IGNORECASE if options.ignore_case else re.NOFLAG
    pattern = re.compile("|".join(map(_as_word, options.words)), flags)

    def score(response: Response) -> float:
        found = pattern.search(unicodedata.normalize("NFC", response.text))
        return -1.0 if found else 0.0

    return _each(score)


def _as_word(word: str) -> str:
    parts = unicodedata.normalize("NFC", word).split()
    text = r"\s+".join(map(re.escape, parts))
    before = f"(?<!{_SPACED})" if re.match(_SPACED, parts[0][0]) else ""
    after = f"(?!{_SPACED})" if re.match(_SPACED, parts[-1][-1]) else ""
    return before + text + after


def exact_answer(options: ExactAnswerRule) -> Scorer:
    """1 if the response's final answer is that of the row, else 0.

    The final answer stands after `####`, else in `\\boxed{}`; without either it is the last number
    of the text, or, where the row's answer is no number, the whole text. Numbers are compared as
    numbers, other answers without regard to capitals and spaces.

    Raises:
        DataError: from the scorer, when a row has no answer to compare with.
    """

    def score(response: Response) -> float:
        reference = response.reference
        wants_number = options.extract == "number" or (
            options.extract == "auto" and final_answer.is_number(reference)
        )
        read = final_answer.final_number if wants_number else final_answer.final_text
        right = read(reference)
        if right is None or right == "":
            raise DataError(
                f"row {response.row} has no answer for the reward '{part_name(options)}'",
                f"its reference is {beginning(reference)}, where "
                f"{'a number' if wants_number else 'a text'} is wanted",
                "give each row its answer, or take the rule out of rlhf.reward",
            )
        return float(read(response.text) == right)

    return _each(score)


def valid_json(options: JsonRule) -> Scorer:
    """1 if the text, or else its first ```json block, is JSON (an object with the keys), else 0."""

    def score(response: Response) -> float:
        block = _FENCE.search(response.text)
        texts = [response.text, *([block[1]] if block else [])]
        return float(any(_is_json(text, options.keys) for text in texts))

    return _each(score)


def _is_json(text: str, keys: Sequence[str]) -> bool:
    try:
        # Integers stay text: Python refuses to read those of thousands of digits.
        value = json_reader.loads(text, parse_int=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(value, dict) and all(key in value for key in keys))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _each(score: Callable[[Response], float]) -> Scorer:
    return lambda responses: [score(response) for response in responses]


RULES: dict[str, Callable[[Any], Scorer]] = {
    "length": length,
    "format": matches_format,
    "forbidden": forbidden,
    "exact_answer": exact_answer,
    "json": valid_json,
}
