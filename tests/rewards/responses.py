"""Responses to score, and rewards as a recipe has them."""

from __future__ import annotations

from typing import Any

from tuner.rewards.options import RewardPart
from tuner.rewards.response import Response
from tuner.schema.fields import Section
from tuner.schema.strict_yaml import parse_value

REFERENCE = "Half of 96 is 96/2 = <<96/2=48>>48.\n#### 48"


class Rewards(Section):
    """A section that holds rewards, as the recipe's does."""

    reward: tuple[RewardPart, ...]


def response(text: str, reference: str = "", num_tokens: int = 0, row: str = "r") -> Response:
    return Response(row, "a prompt", text, reference, num_tokens, True, (1, 2), (3, 0))


def read(*entries: str) -> tuple[Any, ...]:
    return Rewards.model_validate({"reward": [parse_value(entry) for entry in entries]}).reward
