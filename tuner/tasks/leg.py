"""Leg: the steps of a stage that are still to run, and what they run with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from tuner.plan.plan import Plan
    from tuner.plan.values import Stage
    from tuner.tasks.trained import Trained
    from tuner.tasks.watch import Watch


@dataclass(frozen=True)
class Leg:
    """The steps of a stage that are still to run; what the trainer of a task is made from.

    Attributes:
        plan: the plan.
        trained: the model.
        stage: whose steps these are.
        first: the first step still to run, from 0; more than `stage.start` when resumed.
        watch: the callback that checks, records and seals every step.
        optimizer: at the state before step `first`.
        schedule: likewise.
        task_state: the task's state in the checkpoint; empty at the start of a stage.
    """

    plan: Plan
    trained: Trained
    stage: Stage
    first: int
    watch: Watch
    optimizer: torch.optim.Optimizer
    schedule: Any
    task_state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Return the number of steps still to run."""
        return self.stage.stop - self.first
