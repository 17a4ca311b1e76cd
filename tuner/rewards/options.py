"""The recipe's `rlhf.reward`: a list of rewards, each a reward model, a rule or a user's function.

The kind of an entry follows from which of the keys `model`, `rule` and `function` it has. Problems
beyond a field's type are raised as `own_words`: a text for the user, and the key at fault if known.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator

from tuner.rewards.entry import RewardOptions
from tuner.rewards.rules import RULES, Rule
from tuner.schema.fields import ADAPTER, FUNCTION, Text, own_words
from tuner.schema.suggest import suggestion

KINDS = ("model", "rule", "function")


class ModelReward(RewardOptions):
    """The score of a reward model."""

    model: Annotated[
        Text, ADAPTER, Field(description="the reward model: a run folder, an adapter or a recipe")
    ]

    @property
    def _own_name(self) -> str:
        path = Path(self.model)
        return (path.stem if path.suffix in (".yaml", ".yml") else path.name) or self.model


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

    @property
    def _own_name(self) -> str:
        return self.function.rpartition(":")[2]


# By tag. pydantic adds the tag to an error's location; the space sets it apart from recipe keys.
OPTIONS: dict[str, type[RewardOptions]] = {
    "reward model": ModelReward,
    "reward function": FunctionReward,
    **{f"rule {name}": options for name, options in RULES.items()},
}


def options_of(entry: Any) -> type[RewardOptions] | None:
    """Return the options that parse an entry of the file; None if its kind is not clear."""
    return OPTIONS.get(_tag(entry))


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
    if "rule" in kinds and rule not in RULES:
        raise own_words(f"no rule '{rule}'; {_known(rule)}", "rule")
    return entry


def _known(rule: str) -> str:
    hint = suggestion(rule, RULES)
    return hint if hint.startswith("known") else f"{hint}; known here: {', '.join(RULES)}"


def _shown(entry: Any) -> str:
    return "a list" if isinstance(entry, list) else f"'{entry}'"


def _own_names(parts: tuple[RewardPart, ...]) -> tuple[RewardPart, ...]:
    names = [part.title for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise own_words(f"{names.count(name)} are called '{name}'; give each its own name")
    return parts


if TYPE_CHECKING:
    RewardPart: TypeAlias = ModelReward | FunctionReward | Rule
else:
    RewardPart = Annotated[
        reduce(or_, (Annotated[options, Tag(tag)] for tag, options in OPTIONS.items())),
        Discriminator(_tag),
        BeforeValidator(_one_kind),
    ]
# The whole list, whose names must differ.
RewardParts: TypeAlias = Annotated[tuple[RewardPart, ...], AfterValidator(_own_names)]
