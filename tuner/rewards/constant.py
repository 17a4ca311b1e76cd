"""Stop a run whose reward carries no signal: the same for every response, step after step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.errors import TrainingError
from tuner.rewards.response import Scores

# In float32, a model's scores for equal responses differ by rounding.
_ROUNDING = 1e-6
_TOTAL = ""


class ConstantGuard:
    """Watches the scores of each step, in order; its state goes into the checkpoint.

    Args:
        steps: consecutive steps with a single value after which a reward counts as constant.
        responses: a step with fewer responses counts as a fraction of a step.
    """

    def __init__(self, steps: int = 5, responses: int = 8) -> None:
        self.steps = steps
        self.responses = responses
        self._series: dict[str, _Series] = {}
        self._warned: list[str] = []

    def update(self, scores: Scores) -> str | None:
        """Look at one step's scores.

        Returns:
            A warning, once for each part that is constant while the sum is not; else None.

        Raises:
            TrainingError: the sum is constant; it names the parts that are.
        """
        for name, values in {_TOTAL: scores.total, **scores.parts}.items():
            before = self._series.get(name)
            self._series[name] = _continued(before, values, min(1.0, len(values) / self.responses))
        constant = [name for name in scores.parts if self._series[name].steps >= self.steps]
        if self._series[_TOTAL].steps >= self.steps:
            raise self._stop(constant)
        new = [name for name in constant if name not in self._warned]
        self._warned += new
        if not new:
            return None
        return f"{self._said(new)}; training uses only the other rewards"

    def state(self) -> dict[str, Any]:
        """Return what the guard has seen, as JSON values."""
        series = {name: [each.low, each.high, each.steps] for name, each in self._series.items()}
        return {"series": series, "warned": [*self._warned]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._series = {
            name: _Series(float(low), float(high), float(steps))
            for name, (low, high, steps) in state["series"].items()
        }
        self._warned = [*state["warned"]]

    def _stop(self, constant: Sequence[str]) -> TrainingError:
        if not constant:
            return TrainingError(
                "the rewards cancel each other out",
                f"their sum was {self._series[_TOTAL].low:g} for every response in "
                f"{self._series[_TOTAL].steps:g} steps: there is nothing to learn from",
                "change the weights in rlhf.reward",
            )
        return TrainingError(
            self._said(constant),
            "the sum of the rewards is the same for every response: there is nothing to learn from",
            "check on some samples that the reward separates good responses from bad ones",
        )

    def _said(self, names: Sequence[str]) -> str:
        each = [f"'{name}' was {self._series[name].low:g}" for name in names]
        steps = max(self._series[name].steps for name in names)
        return f"the reward {' and '.join(each)} for every response in {steps:g} steps"


@dataclass(frozen=True)
class _Series:
    """Consecutive steps with a single value.

    Attributes:
        low: smallest score in them.
        high: largest score in them.
        steps: how many; a step with few responses counts as a fraction.
    """

    low: float
    high: float
    steps: float


def _continued(before: _Series | None, values: Sequence[float], counts: float) -> _Series:
    """The series after a step with these values; a new one where they differ from it."""
    if not values:
        return before or _Series(0.0, 0.0, 0.0)
    low, high = min(values), max(values)
    if before and before.steps and equal(min(low, before.low), max(high, before.high)):
        return _Series(min(low, before.low), max(high, before.high), before.steps + counts)
    return _Series(low, high, counts if equal(low, high) else 0.0)


def equal(low: float, high: float) -> bool:
    """Return whether scores from `low` to `high` differ by no more than rounding."""
    return high - low <= _ROUNDING * max(abs(low), abs(high))
