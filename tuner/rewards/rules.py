"""RULES: rewards that need no model, one class per rule: its options and how it scores.

A rule scores a response from that response alone: the same text always gets the same score,
whatever else is in the batch.
"""

from __future__ import annotations

import json as json_reader
import re
import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tuner.errors import DataError, TrainingError
from tuner.rewards import final_answer
from tuner.rewards.entry import RewardOptions
from tuner.rewards.response import Response, Scorer, beginning
from tuner.schema.fields import Count, CountFromZero, Flag, Text, Words, own_words

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


class Rule(RewardOptions):
    """A rule; `rule` is its name."""

    rule: str

    @property
    def _own_name(self) -> str:
        return self.rule

    @abstractmethod
    def score(self, response: Response) -> float:
        """Score one response."""

    def scorer(self) -> Scorer:
        """Return what scores responses one by one."""
        return lambda responses: [self.score(response) for response in responses]


class LengthRule(Rule):
    """1 from `min` to `max`; falls to 0 at length 0 below, and to 0 at twice `max` above."""

    rule: Annotated[Literal["length"], Field(description="the rule: length")]
    min: Annotated[CountFromZero, Field(description="shortest response that scores 1")] = 1
    max: Annotated[Count, Field(description="longest response that scores 1")]
    unit: Annotated[
        Literal["words", "tokens"],
        Field(description="unit of length; a Chinese or Japanese character counts as a word"),
    ] = "words"

    @field_validator("max")
    @classmethod
    def _not_below_min(cls, most: int, info: ValidationInfo) -> int:
        least = info.data.get("min", 0)
        if most < least:
            raise own_words(f"expected a whole number, {least} (min) or more, not {most}")
        return most

    def score(self, response: Response) -> float:
        """Score 1 from min to max; n / min below it; above it 2 - n / max, never below 0."""
        size = response.num_tokens if self.unit == "tokens" else num_words(response.text)
        if size < self.min:
            return size / self.min
        return 1.0 if size <= self.max else max(0.0, 2.0 - size / self.max)


def num_words(text: str) -> int:
    """Count the words; a Chinese or Japanese character is one, punctuation alone is none."""
    return sum(any(map(str.isalnum, word)) for word in _WORD.findall(text))


class FormatRule(Rule):
    """1 if the whole response matches a regular expression, else 0."""

    rule: Annotated[Literal["format"], Field(description="the rule: format")]
    pattern: Annotated[
        Text,
        Field(
            description="regular expression for the whole response; a dot matches line breaks, too"
        ),
    ]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        # Imported here: most recipes have no such rule.
        import regex  # type: ignore[import-untyped]

        try:
            regex.compile(pattern, regex.DOTALL)
        except regex.error as error:
            raise own_words(f"expected a regular expression: {error}") from None
        return pattern

    def score(self, response: Response) -> float:
        """Score 1 if the pattern matches the whole text, else 0; over MOST_CHARACTERS, too.

        Patterns are those of the library `regex`: a superset of `re`, with a time limit.

        Raises:
            TrainingError: the pattern takes more than MOST_SECONDS.
        """
        import regex

        if len(response.text) > MOST_CHARACTERS:
            return 0.0
        try:
            found = regex.fullmatch(self.pattern, response.text, regex.DOTALL, timeout=MOST_SECONDS)
        except TimeoutError:
            raise TrainingError(
                f"the reward '{self.title}' took more than {MOST_SECONDS:g} s for row "
                f"{response.row}",
                f"its pattern {self.pattern!r} tries too many ways to match "
                f"{beginning(response.text)}",
                "write repeats that cannot overlap: (?>...), a++, or [^,]* instead of .*",
            ) from None
        return float(found is not None)


class ForbiddenRule(Rule):
    """-1 if any of the words occurs, else 0."""

    rule: Annotated[Literal["forbidden"], Field(description="the rule: forbidden")]
    words: Annotated[Words, Field(min_length=1, description="forbidden words or phrases")]
    ignore_case: Annotated[Flag, Field(description="ignore upper and lower case")] = True

    @field_validator("words")
    @classmethod
    def _not_blank(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if not all(word.strip() for word in words):
            raise own_words("a word must not be blank")
        return words

    def score(self, response: Response) -> float:
        """Score -1 if any of the words occurs, else 0.

        Words match as whole words; where one begins or ends with a character of a script without
        spaces, such as Chinese, no word boundary is needed there.
        """
        pattern = _any_of(self.words, self.ignore_case)
        found = pattern.search(unicodedata.normalize("NFC", response.text))
        return -1.0 if found else 0.0


@cache
def _any_of(words: tuple[str, ...], ignore_case: bool) -> re.Pattern[str]:
    flags = re.IGNORECASE if ignore_case else re.NOFLAG
    return re.compile("|".join(map(_as_word, words)), flags)


def _as_word(word: str) -> str:
    parts = unicodedata.normalize("NFC", word).split()
    text = r"\s+".join(map(re.escape, parts))
    before = f"(?<!{_SPACED})" if re.match(_SPACED, parts[0][0]) else ""
    after = f"(?!{_SPACED})" if re.match(_SPACED, parts[-1][-1]) else ""
    return before + text + after


class ExactAnswerRule(Rule):
    """1 if the final answer equals the row's, else 0."""

    rule: Annotated[Literal["exact_answer"], Field(description="the rule: exact_answer")]
    extract: Annotated[
        Literal["auto", "number", "text"],
        Field(description="compare answers as numbers or as text; auto: by the row's own answer"),
    ] = "auto"

    def score(self, response: Response) -> float:
        """Score 1 if the response's final answer equals the row's, else 0.

        The final answer is what follows `####`, else what `\\boxed{}` holds, else the last number
        of the text, or, if the row's answer is not a number, the whole text. Numbers are compared
        as numbers, other answers without regard to capitals and spaces.

        Raises:
            DataError: the row has no answer to compare with.
        """
        reference = response.reference
        wants_number = self.extract == "number" or (
            self.extract == "auto" and final_answer.is_number(reference)
        )
        read = final_answer.final_number if wants_number else final_answer.final_text
        right = read(reference)
        if right is None or right == "":
            raise DataError(
                f"row {response.row} has no answer for the reward '{self.title}'",
                f"its reference is {beginning(reference)}, but "
                f"{'a number' if wants_number else 'a text'} is expected",
                "give each row an answer, or remove the rule from rlhf.reward",
            )
        return float(read(response.text) == right)


class JsonRule(Rule):
    """1 if the response, or a ```json block in it, is valid JSON, else 0."""

    rule: Annotated[Literal["json"], Field(description="the rule: json")]
    keys: Annotated[Words, Field(description="keys that the JSON object must have")] = ()

    def score(self, response: Response) -> float:
        """Score 1 if the text, or its first ```json block, is JSON with the keys, else 0."""
        block = _FENCE.search(response.text)
        texts = [response.text, *([block[1]] if block else [])]
        return float(any(_is_json(text, self.keys) for text in texts))


def _is_json(text: str, keys: Sequence[str]) -> bool:
    try:
        # Integers stay text: Python refuses to parse those with thousands of digits.
        value = json_reader.loads(text, parse_int=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(value, dict) and all(key in value for key in keys))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


RULES: dict[str, type[Rule]] = {
    "length": LengthRule,
    "format": FormatRule,
    "forbidden": ForbiddenRule,
    "exact_answer": ExactAnswerRule,
    "json": JsonRule,
}
