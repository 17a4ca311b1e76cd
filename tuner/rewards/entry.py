"""What every entry of the recipe's `rlhf.reward` has."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

from pydantic import Field, field_validator

from tuner.schema.fields import Float, Section, Text, own_words


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

    @property
    def title(self) -> str:
        """Return the name of the reward in the logs."""
        return self.name or self._own_name

    @property
    @abstractmethod
    def _own_name(self) -> str:
        """Return its name where the recipe gives none."""
