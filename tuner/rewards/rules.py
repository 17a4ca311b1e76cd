"""RULES: rewards that need no model. One row per rule, from its options to its scorer.

A scorer returns one number per response, from the response alone: the same text always gets the
same score, whatever else is in the batch.
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

# A longer response never matches a format: matching time can grow with the square of its length.
MOST_CHARACTERS = 20_000
# Some patterns take time that doubles with every character; no useful one takes this long.
MOST_SECONDS = 2.0
_CHARACTER_WORDS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_CHARACTER_WORDS}]|[^\\s{_CHARACTER_WORDS}]+")
# Thai, Lao, Burmese, Khmer, Chinese, Japanese and Korean: no spaces mark where a word ends.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_SPACED = f"[^\\W{_UNSPACED}\U00020000-\U0003ffff]"
_FENCE = re.compile(r"```json[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def length(options: LengthRule) -> Scorer:
    """Score 1 from min to max; n / min below it; above it 2 - n / max, never below 0."""

    def score(response: Response) -> float:
        size = response.num_tokens if options.unit == "tokens" else num_words(response.text)
        if size < options.min:
            return size / options.min
        return 1.0 if size <= options.max else max(0.0, 2.0 - size / options.max)

    return _each(score)


def num_words(text: str) -> int:
    """Count the words; a Chinese or Japanese character is one, punctuation alone is none."""
    return sum(any(map(str.isalnum, word)) for word in _WORD.findall(text))


def matches_format(options: FormatRule) -> Scorer:
    """Score 1 if the pattern matches the whole text, else 0; a text over MOST_CHARACTERS gets 0.

    Patterns are those of the library `regex`: a superset of `re`, with a time limit.

    Raises:
        TrainingError: raised by the scorer when the pattern takes more than MOST_SECONDS on a text.
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
                "write repeats that cannot overlap: (?>...), a++, or [^,]* instead of .*",
            ) from None

    return _each(score)


def forbidden(options: ForbiddenRule) -> Scorer:
    """Score -1 if any of the words occurs, else 0.

    Words match as whole words; where one begins or ends with a character of a script without
    spaces, such as Chinese, no word boundary is needed there.
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
    """Score 1 if the response's final answer equals the row's, else 0.

    The final answer is what follows `####`, else what `\\boxed{}` holds, else the last number of
    the text, or, if the row's answer is not a number, the whole text. Numbers are compared as
    numbers, other answers without regard to capitals and spaces.

    Raises:
        DataError: raised by the scorer when a row has no answer to compare with.
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
                f"its reference is {beginning(reference)}, but "
                f"{'a number' if wants_number else 'a text'} is expected",
                "give each row an answer, or remove the rule from rlhf.reward",
            )
        return float(read(response.text) == right)

    return _each(score)


def valid_json(options: JsonRule) -> Scorer:
    """Score 1 if the text, or its first ```json block, is JSON (an object with keys), else 0."""

    def score(response: Response) -> float:
        block = _FENCE.search(response.text)
        texts = [response.text, *([block[1]] if block else [])]
        return float(any(_is_json(text, options.keys) for text in texts))

    return _each(score)


def _is_json(text: str, keys: Sequence[str]) -> bool:
    try:
        # Integers stay text: Python refuses to parse those with thousands of digits.
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
