"""TASKS: what is optimised. One file per task, one row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.tasks import reward, rlhf, sft

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.tasks.leg import Leg


@dataclass(frozen=True)
class Task:
    """What a task does in each phase of a run.

    Attributes:
        trainer: makes an object whose `train()` runs the remaining steps of a stage.
        prepare: adds what the task needs to a new model, and returns its rewards, if any.
        finish: removes it again before the export.
    """

    trainer: Callable[[Leg], Any]
    prepare: Callable[[Plan, Any], Any] = lambda plan, model: None
    finish: Callable[[Plan, Any], Any] = lambda plan, trained: None


TASKS: dict[str, Task] = {
    "sft": Task(sft.trainer),
    "reward": Task(reward.trainer),
    "rlhf": Task(rlhf.trainer, rlhf.prepare, rlhf.finish),
}
