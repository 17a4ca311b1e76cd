"""Composable rewards: each scores a response on its own; training uses their weighted sum.

A part is a reward model, a rule (`rules.RULES`) or a user's function (`code.load`). Parts are
scored and logged separately, so that the sum can always be traced to its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.errors import TrainingError
from tuner.rewards.response import Response, Scorer, Scores, beginning


@dataclass(frozen=True)
class Term:
    """One term of the sum.

    Attributes:
        name: its name in logs and messages.
        weight: its factor in the sum.
        score: maps responses to one number each.
    """

    name: str
    weight: float
    score: Scorer


def compose(parts: Sequence[Term]) -> Callable[[Sequence[Response]], Scores]:
    """Return a function that scores responses by every part and sums the weighted scores.

    Raises:
        ValueError: two parts have the same name.
        TrainingError: raised by the function when a part returns the wrong number of scores, or a
            score that is not finite; it names the part and the row.
    """
    if len({part.name for part in parts}) < len(parts):
        raise ValueError("two parts of a reward have the same name")

    def score(responses: Sequence[Response]) -> Scores:
        by_part = {part.name: _scored(part, responses) for part in parts}
        total = [
            sum(part.weight * by_part[part.name][index] for part in parts)
            for index in range(len(responses))
        ]
        return Scores(total, by_part)

    return score


def _scored(part: Term, responses: Sequence[Response]) -> list[float]:
    scores = [float(score) for score in part.score(responses)]
    if len(scores) != len(responses):
        raise TrainingError(
            f"the reward '{part.name}' gave {len(scores)} "
            f"{'score' if len(scores) == 1 else 'scores'} for {len(responses)} responses",
            "each response needs exactly one score",
            "fix that reward, or remove it from rlhf.reward",
        )
    for score, response in zip(scores, responses, strict=True):
        if not math.isfinite(part.weight * score):
            value = score if not math.isfinite(score) else f"{part.weight:g} * {score:g}"
            raise TrainingError(
                f"the reward '{part.name}' is {value} for row {response.row}",
                f"the response begins with {beginning(response.text)}",
                "fix that reward, or remove it from rlhf.reward",
            )
    return scores
