"""TASKS: what is optimised. One file a task, one row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner import evaluate
from tuner.evaluate import implicit
from tuner.evaluate import policy as drawn
from tuner.tasks import reward, rlhf, sft

if TYPE_CHECKING:
    from tuner.plan import Plan
    from tuner.training import Trained

Tick = Callable[[int, int], None]


def _nothing(plan: Plan, model: Any) -> Any:
    return None


def _score(plan: Plan, trained: Trained, tick: Tick) -> dict[str, float]:
    return evaluate.score(plan, trained.model, tick)


def _samples(plan: Plan, trained: Trained) -> list[dict[str, str]]:
    return evaluate.samples(plan, trained.model)


def _score_policy(plan: Plan, trained: Trained, tick: Tick) -> dict[str, float]:
    if not plan.rlhf.draws:
        return evaluate.values(plan.metrics, implicit.observe(plan, trained.model, tick))
    earned = drawn.observe(plan, trained, tick)
    return evaluate.values(plan.metrics, earned) | drawn.parts(earned)


def _sample_policy(plan: Plan, trained: Trained) -> list[dict[str, str]]:
    if not plan.rlhf.draws:
        return implicit.samples(plan, trained.model)
    return drawn.samples(plan, trained)


@dataclass(frozen=True)
class Task:
    """What a task does at each station of a run.

    Attributes:
        trainer: something with `train()` for the steps of a stage that remain.
        prepare: what the task puts beside the method on a new model; kept as `Trained.aid`.
        finish: takes that off again, before the export.
        score: the plan's metrics on the held-out rows.
        samples: what the model makes of the first held-out rows.
    """

    trainer: Callable[..., Any]
    prepare: Callable[[Plan, Any], Any] = _nothing
    finish: Callable[[Plan, Any], Any] = _nothing
    score: Callable[[Plan, Trained, Tick], dict[str, float]] = _score
    samples: Callable[[Plan, Trained], list[dict[str, str]]] = _samples


TASKS: dict[str, Task] = {
    "sft": Task(sft.trainer),
    "reward": Task(reward.trainer),
    "rlhf": Task(rlhf.trainer, rlhf.prepare, rlhf.finish, _score_policy, _sample_policy),
}
