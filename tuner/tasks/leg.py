"""Leg: the steps of a stage that are still to run, and what they run with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from tuner.machine import ranks
from tuner.machine.signals import SIGNALS
from tuner.record import checkpoint
from tuner.tasks import averaged
from tuner.tasks.loss_scale import LossScale
from tuner.tasks.optimizer import follow, optimizer_and_schedule, page
from tuner.tasks.trained import trainable
from tuner.tasks.watch import Watch

if TYPE_CHECKING:
    from tuner.machine.signals import StopRequest
    from tuner.plan.plan import Plan
    from tuner.plan.values import Stage
    from tuner.record.checkpoint import Checkpoint
    from tuner.record.run_folder import RunFolder
    from tuner.tasks.trained import Trained

# The sums of a logging window without a step.
EMPTY = {"steps": 0, "loss": 0.0, "tokens": 0, "supervised_tokens": 0, "seconds": 0.0}


class Reporter(Protocol):
    """Where a run reports its progress; a `Console` is one."""

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Show how far training is."""

    def note(self, text: str) -> None:
        """Show something worth knowing."""

    def warn(self, text: str) -> None:
        """Show something that may be wrong."""

    def evaluation(self, step: int, scores: Mapping[str, float], text: str) -> None:
        """Show the scores of held-out rows after a step."""


@dataclass
class Step:
    """The step that runs now; out of memory, it is repeated from here.

    Attributes:
        number: from 0.
        task_state: the task's state before it.
        updating: whether its update has begun: it cannot be repeated.
        started: when it began.
        signal: which signal any process had when they last agreed, 0 if none; None: not yet.
    """

    number: int
    task_state: Mapping[str, Any] = field(default_factory=dict)
    updating: bool = False
    started: float = field(default_factory=time.perf_counter)
    signal: int | None = None


@dataclass(frozen=True)
class Leg:
    """The steps of a stage that are still to run; what the trainer of a task is made from.

    Attributes:
        plan: the plan.
        trained: the model.
        stage: whose steps these are.
        first: the first step still to run, from 0; more than `stage.start` when resumed.
        parameters: the trainable tensors, by name.
        optimizer: at the state before step `first`.
        schedule: likewise.
        folder: takes metrics, samples and checkpoints.
        stop: whether a signal asked the run to stop.
        reporter: shows what happens.
        step: the step that runs now; before the first one, that one.
        window: sums over the steps since the last line of metrics.
        task_state: returns what the next step depends on besides weights and optimizer, as JSON;
            set by the task.
        loss_scale: of float16.
        watch: the evaluations while training.
    """

    plan: Plan
    trained: Trained
    stage: Stage
    first: int
    parameters: list[tuple[str, torch.nn.Parameter]]
    optimizer: torch.optim.Optimizer
    schedule: Any
    folder: RunFolder
    stop: StopRequest
    reporter: Reporter
    step: Step
    window: dict[str, float]
    task_state: Callable[[], dict[str, Any]] = dict
    loss_scale: LossScale = field(default_factory=LossScale)
    watch: Watch = field(default_factory=lambda: Watch(None))

    @property
    def steps(self) -> int:
        """Return the number of steps still to run."""
        return self.stage.stop - self.first

    def begin_step(self, number: int) -> None:
        """Begin step `number`, from 0, of the run.

        Randomness within a step (dropout) is a pure function of the run's seed and the step's
        number, so a checkpoint holds no generator state and a resumed step gets the numbers of the
        uninterrupted one.
        """
        step = self.step
        step.number, step.task_state, step.updating = number, self.task_state(), False
        step.signal = None
        # Rows of different ranks do not share their dropout.
        torch.manual_seed(self.plan.step_seed(number) + (ranks.place().rank << 32))
        step.started = time.perf_counter()

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all processes, and agree on a signal to stop, in one
        message."""
        sent = [float(self.stop.requested == number) for number in SIGNALS]
        sums = ranks.total([*values, *sent])
        came = [number for number, count in zip(SIGNALS, sums[len(values) :], strict=True) if count]
        self.step.signal = int(max(came, default=0))
        return sums[: len(values)]

    def repeated(self, plan: Plan) -> Leg:
        """Return the steps from the current one on, by another plan."""
        step = Step(self.step.number, self.step.task_state)
        return replace(self, plan=plan, first=step.number, step=step)


def begin(
    plan: Plan,
    trained: Trained,
    stage: Stage,
    folder: RunFolder,
    stop: StopRequest,
    reporter: Reporter,
    saved: Checkpoint | None = None,
) -> Leg:
    """Return the steps of a stage from its start, or from a checkpoint within it.

    Raises:
        IntegrityError: the checkpoint does not fit the model.
    """
    parameters = trainable(trained.model)
    optimizer, schedule = optimizer_and_schedule(trained.model, parameters, plan, stage)
    step, window, scale = Step(stage.start), EMPTY, None
    if saved is not None:
        checkpoint.restore(saved, dict(parameters), optimizer, schedule)
        averaged.go_on(optimizer)
        page(optimizer)
        plan.method.hooks.restore(trained.model, saved.state["method"])
        if saved.state["identity"].get("train.max_steps") != plan.steps:
            follow(optimizer, schedule)
        step, window = Step(saved.step, saved.state["task"]), saved.state["window"]
        scale = saved.state.get("loss_scale")
    return Leg(
        plan=plan,
        trained=trained,
        stage=stage,
        first=step.number,
        parameters=parameters,
        optimizer=optimizer,
        schedule=schedule,
        folder=folder,
        stop=stop,
        reporter=reporter,
        step=step,
        window=dict(window),
        loss_scale=LossScale(scale),
    )
