"""The recipe's `rlhf.reward`: a list of rewards, each a reward model, a rule or a user's function.

The kind of an entry follows from which of the keys `model`, `rule` and `function` it has. Problems
beyond a field's type are raised as `own_words`: a text for the user, and the key at fault if known.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from tuner.schema.fields import (
    ADAPTER,
    FUNCTION,
    Count,
    CountFromZero,
    Flag,
    Float,
    Section,
    Text,
    Words,
)
from tuner.schema.suggest import suggestion

KINDS = ("model", "rule", "function")


class RewardOptions(Section):
    """Options that every reward has."""

    weight: Annotated[
        Float, Field(description="weight of this reward in the sum; negative: a penalty")
    ] = 1.0
    name: Annotated[
        Text | None,
        Field(description="name in the logs; default: that of the rule, model or function"),
    ] = None

    @field_validator("weight")
    @classmethod
    def _counts(cls, weight: float) -> float:
        if weight == 0:
            raise own_words("a reward with weight 0 has no effect; remove it")
        return weight


class ModelReward(RewardOptions):
    """The score of a reward model."""

    model: Annotated[
        Text, ADAPTER, Field(description="the reward model: a run folder, an adapter or a recipe")
    ]


class FunctionReward(RewardOptions):
    """The score of a Python function; needs rlhf.allow_code."""

    function: Annotated[
        Text, FUNCTION, Field(description="file.py:name, a function that maps responses to numbers")
    ]

    @field_validator("function")
    @classmethod
    def _file_and_name(cls, function: str) -> str:
        file, _, name = function.rpartition(":")
        if not (file.endswith(".py") and name.isidentifier()):
            raise own_words(f"expected file.py:name, not '{function}'")
        return function


class LengthRule(RewardOptions):
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


class FormatRule(RewardOptions):
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


class ForbiddenRule(RewardOptions):
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


class ExactAnswerRule(RewardOptions):
    """1 if the final answer equals the row's, else 0."""

    rule: Annotated[Literal["exact_answer"], Field(description="the rule: exact_answer")]
    extract: Annotated[
        Literal["auto", "number", "text"],
        Field(description="compare answers as numbers or as text; auto: by the row's own answer"),
    ] = "auto"


class JsonRule(RewardOptions):
    """1 if the response, or a ```json block in it, is valid JSON, else 0."""

    rule: Annotated[Literal["json"], Field(description="the rule: json")]
    keys: Annotated[Words, Field(description="keys that the JSON object must have")] = ()


RULE_OPTIONS: dict[str, type[RewardOptions]] = {
    "length": LengthRule,
    "format": FormatRule,
    "forbidden": ForbiddenRule,
    "exact_answer": ExactAnswerRule,
    "json": JsonRule,
}
# By tag. pydantic adds the tag to an error's location; the space sets it apart from recipe keys.
OPTIONS: dict[str, type[RewardOptions]] = {
    "reward model": ModelReward,
    "reward function": FunctionReward,
    **{f"rule {name}": options for name, options in RULE_OPTIONS.items()},
}


def own_words(said: str, key: str = "") -> PydanticCustomError:
    """Return a problem in words for the user, at the key at fault below the validator's place."""
    return PydanticCustomError("own_words", "{said}", {"said": said, "key": key})


def options_of(entry: Any) -> type[RewardOptions] | None:
    """Return the options that parse an entry of the file; None if its kind is not clear."""
    return OPTIONS.get(_tag(entry))


def part_name(part: RewardPart) -> str:
    """Return the name of the reward in the logs."""
    if part.name:
        return part.name
    if isinstance(part, ModelReward):
        path = Path(part.model)
        return (path.stem if path.suffix in (".yaml", ".yml") else path.name) or part.model
    if isinstance(part, FunctionReward):
        return part.function.rpartition(":")[2]
    return part.rule


def _tag(entry: Any) -> str:
    if isinstance(entry, RewardOptions):
        return next(tag for tag, options in OPTIONS.items() if type(entry) is options)
    if not isinstance(entry, dict):
        return ""
    if entry.get("rule") is not None:
        return f"rule {entry['rule']}"
    return "reward model" if entry.get("model") is not None else "reward function"


def _one_kind(entry: Any) -> Any:
    """Refuse an entry that is not clearly a model, a rule or a function."""
    if isinstance(entry, RewardOptions):
        return entry
    if not isinstance(entry, dict):
        raise own_words(f"expected keys such as {{rule: length, max: 25}}, not {_shown(entry)}")
    kinds = [kind for kind in KINDS if entry.get(kind) is not None]
    if not kinds:
        raise own_words("expected one of the keys model, rule and function; it has none")
    if len(kinds) > 1:
        both = " and ".join(kinds)
        raise own_words(f"expected one of the keys model, rule and function; it has {both}")
    rule = str(entry.get("rule", ""))
    if "rule" in kinds and rule not in RULE_OPTIONS:
        raise own_words(f"no rule '{rule}'; {_known(rule)}", "rule")
    return entry


def _known(rule: str) -> str:
    hint = suggestion(rule, RULE_OPTIONS)
    return hint if hint.startswith("known") else f"{hint}; known here: {', '.join(RULE_OPTIONS)}"


def _shown(entry: Any) -> str:
    return "a list" if isinstance(entry, list) else f"'{entry}'"


def _own_names(parts: tuple[RewardPart, ...]) -> tuple[RewardPart, ...]:
    names = [part_name(part) for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise own_words(f"{names.count(name)} are called '{name}'; give each its own name")
    return parts


if TYPE_CHECKING:
    RuleReward = LengthRule | FormatRule | ForbiddenRule | ExactAnswerRule | JsonRule
    RewardPart: TypeAlias = ModelReward | FunctionReward | RuleReward
else:
    RewardPart = Annotated[
        reduce(or_, (Annotated[options, Tag(tag)] for tag, options in OPTIONS.items())),
        Discriminator(_tag),
        BeforeValidator(_one_kind),
    ]
# The whole list, whose names must differ.
RewardParts: TypeAlias = Annotated[tuple[RewardPart, ...], AfterValidator(_own_names)]
