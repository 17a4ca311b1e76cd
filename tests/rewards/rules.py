"""Rules as a recipe has them, and answers to score."""

from __future__ import annotations

from typing import Any

from tuner.rewards.options import RewardPart
from tuner.rewards.response import Response
from tuner.rewards.rules import RULES
from tuner.schema.fields import Section
from tuner.schema.strict_yaml import parse_value


class Rewards(Section):
    """A section that holds rewards, as the recipe's does."""

    reward: tuple[RewardPart, ...]


def response(text: str, reference: str = "", num_tokens: int = 0, row: str = "r") -> Response:
    return Response(row, "a prompt", text, reference, num_tokens, True, (1, 2), (3, 0))


def read(*entries: str) -> tuple[Any, ...]:
    return Rewards.model_validate({"reward": [parse_value(entry) for entry in entries]}).reward


def rule(entry: str, *texts: str, reference: str = "") -> list[float]:
    """The scores of texts by an entry of the recipe."""
    (part,) = read(entry)
    return RULES[part.rule](part)([response(text, reference) for text in texts])
