"""The callback between the Trainer and the run: it seeds, checks, records and seals every step.

Randomness within a step (dropout) is a pure function of the run's seed and the step's number, so a
checkpoint holds no generator state and a resumed step gets the numbers of the uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.data.order import micro_batches
from tuner.errors import TrainingError
from tuner.machine import ranks
from tuner.record import checkpoint, checkpoint_folder

if TYPE_CHECKING:
    from tuner.data.order import Stream
    from tuner.machine.signals import StopRequest
    from tuner.plan.plan import Plan
    from tuner.plan.values import Stage
    from tuner.record.run_folder import RunFolder
    from tuner.rewards.response import Response, Scores


class Reporter(Protocol):
    """Where a run reports its progress; a `Console` is one."""

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Show how far training is."""

    def note(self, text: str) -> None:
        """Show something worth knowing."""

    def warn(self, text: str) -> None:
        """Show something that may be wrong."""


class Watch(TrainerCallback):
    """The Trainer's callback of a run.

    Args:
        plan: the plan.
        folder: where metrics and checkpoints go.
        stop: whether a signal asked the run to stop.
        reporter: shows progress after every step, samples and warnings.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        stop: StopRequest,
        reporter: Reporter,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.stop = stop
        self.reporter = reporter
        # The task's own state, as JSON; read when a checkpoint is sealed.
        self.task_state: Callable[[], dict[str, Any]] = dict
        self.model: Any = None
        self.parameters: list[tuple[str, torch.nn.Parameter]] = []
        self.penalty: Callable[[], torch.Tensor] | None = None
        self.window: dict[str, float] = _empty_window()
        self.expect(plan, 0, {})

    def follow(self, model: Any, parameters: list[tuple[str, torch.nn.Parameter]]) -> None:
        """Follow a live model, and its trainable parameters from now on."""
        self.model = model
        self.parameters = parameters
        self.penalty = self.plan.method.hooks.penalty(model, self.plan.recipe.method)

    def expect(self, plan: Plan, number: int, task_state: Mapping[str, Any]) -> None:
        """Expect steps from `number` on, from 0, by this plan, from this state of the task."""
        self.plan = plan
        self.number, self.state_before, self.updating = number, task_state, False

    def begin(self, stage: Stage, first: int, stream: Stream, place: int) -> None:
        """Start watching steps from `first` on; `stream` begins at `place` of the order."""
        self.stage = stage
        self.first = first
        self.stream = stream
        self.place = place
        self.step_loss: torch.Tensor | None = None
        self.step_total = 0.0
        self.grad_norm = 0.0
        self.rate = 0.0
        self.started = time.perf_counter()

    def resume(self, window: Mapping[str, float]) -> None:
        """Continue with the sums of a logging window that a checkpoint cut in two."""
        self.window = dict(window)

    def loss(self, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Wrap `function` so that what it returns is added to the step's loss."""

        def measured(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            loss = function(outputs, labels, num_items_in_batch=num_items_in_batch)
            # A copy: the Trainer multiplies the loss by the number of processes, in place.
            part = loss.detach().clone()
            self.step_loss = part if self.step_loss is None else self.step_loss + part
            if self.penalty is not None:
                # Once per step, whatever the number of its micro-batches.
                loss = loss + self.penalty() / self.micro_batches()
            return loss

        return measured

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed the step."""
        self.start_step(self.first + state.global_step)
        self.step_loss = None
        self.step_number = state.global_step

    def start_step(self, number: int) -> None:
        """Seed step `number`, from 0, of the run."""
        self.number, self.state_before, self.updating = number, self.task_state(), False
        # Rows of different ranks do not share their dropout.
        torch.manual_seed(self.plan.step_seed(number) + (ranks.place().rank << 32))
        self.step_started = time.perf_counter()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clip, and stop before the optimizer takes a step that is not finite."""
        assert self.step_loss is not None
        (self.step_total,) = ranks.total([float(self.step_loss)])
        self.clip(state.global_step, self.step_total)
        if self.first + state.global_step == self.stage.start and self.grad_norm == 0.0:
            raise TrainingError(
                "nothing can be learned",
                f"step {self.stage.start + 1}: every gradient is zero",
                "check that the trained modules take part in the forward pass",
            )
        self.rate = float(kwargs["lr_scheduler"].get_last_lr()[0])

    def clip(self, number: int, loss: float = 0.0) -> None:
        """Clip the gradients of the `number`-th step of the stream.

        Raises:
            TrainingError: they, or the loss, are not finite.
        """
        weights = [parameter for _, parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(weights, self.plan.recipe.train.max_grad_norm)
        self.grad_norm = float(norm)
        for name, value in (("loss", loss), ("gradient norm", self.grad_norm)):
            if not math.isfinite(value):
                raise self._not_finite(name, value, number)
        # From here on the step cannot be repeated.
        self.updating = True

    def micro_batches(self) -> int:
        """Return the micro-batches of the current step; the last of a stage may have fewer."""
        rows = len(self.stream.step(self.step_number))
        return micro_batches(rows, self.plan.micro_batch_size, self.plan.devices.world)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call the method's hook after an update, while the gradients are still there."""
        self.plan.method.hooks.after_update(self.model, self.first + state.global_step + 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the step, seal a checkpoint if one is due, and end if asked to."""
        step = self.first + state.global_step
        self._record(step)
        if self.end_step(step, kwargs["optimizer"], kwargs["lr_scheduler"]):
            control.should_training_stop = True

    def end_step(self, step: int, optimizer: Any, schedule: Any) -> bool:
        """Seal a checkpoint if one is due after `step` steps; return whether to end here.

        A signal to one process ends all of them after the same step.
        """
        agreed = ranks.largest(self.stop.requested or 0)
        if agreed and self.stop.requested is None:
            self.stop.requested = agreed
        last = step == self.stage.stop
        if last or step % self.plan.recipe.train.save_steps == 0 or agreed:
            self.seal(step, optimizer, schedule)
            # A signal that came meanwhile need not wait for another step.
            agreed = ranks.largest(self.stop.requested or 0)
        return bool(agreed)

    def seal(self, step: int, optimizer: Any, schedule: Any) -> None:
        """Write checkpoint `step`; the metrics up to it are on the disk before.

        Raises:
            TrainingError: the processes no longer train the same tensors.
        """
        ranks.check_replicas(self.parameters, f"after step {step}")
        if ranks.place().main:
            self._save(step, optimizer, schedule)
        # A process that ends before the checkpoint is sealed would count as failed.
        ranks.share(step)

    def _save(self, step: int, optimizer: Any, schedule: Any) -> None:
        self.folder.sync_metrics()
        checkpoint.save(
            self.folder.path / "checkpoints",
            step,
            dict(self.parameters),
            getattr(optimizer, "optimizer", optimizer),
            schedule,
            {
                "stage": self.plan.stages.index(self.stage),
                "window": self.window,
                "method": self.plan.method.hooks.state(self.model),
                "task": self.task_state(),
                "identity": self.plan.identity(),
                "processes": self.plan.devices.world,
            },
        )

    def _record(self, step: int) -> None:
        rows = self.stream.step(step - self.first - 1)
        self.place += len(rows)
        window = self.window
        window["steps"] += 1
        window["loss"] += self.step_total
        window["tokens"] += sum(row.num_tokens for row in rows)
        window["supervised_tokens"] += sum(row.num_targets for row in rows)
        window["seconds"] += time.perf_counter() - self.step_started
        metrics: dict[str, Any] = {
            "step": step,
            "loss": window["loss"] / window["steps"],
            "grad_norm": self.grad_norm,
            "learning_rate": self.rate,
            "epoch": self.place / len(self.stream.examples),
            "tokens": int(window["tokens"]),
            "supervised_tokens": int(window["supervised_tokens"]),
            "seconds": window["seconds"],
        }
        if len(self.plan.stages) > 1:
            metrics["stage"] = self.plan.stages.index(self.stage) + 1
        if self.log(step, metrics):
            self.window = _empty_window()
        shown = {key: metrics[key] for key in ("loss", "grad_norm", "learning_rate")}
        speed = metrics["tokens"] / metrics["seconds"]
        self.reporter.progress(step, self.plan.steps, {**shown, "tokens_per_second": round(speed)})

    def log(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Write a metrics line if one is due after `step` steps; return whether it was."""
        due = step % self.plan.recipe.train.logging_steps == 0 or step == self.stage.stop
        if due:
            self.folder.append_metrics(metrics)
        return due

    def samples(self, step: int, answers: Sequence[Response], scores: Scores) -> None:
        """Write all sampled answers of a step, and show the first one."""
        for number, answer in enumerate(answers):
            self.folder.append_sample(
                {
                    "step": step,
                    "row": answer.row,
                    "prompt": answer.prompt,
                    "answer": answer.text,
                    "ended": answer.ended,
                    "reward": scores.total[number],
                    "parts": {name: values[number] for name, values in scores.parts.items()},
                }
            )
        first = f"{answers[0].prompt}  ->  {answers[0].text}"
        self.reporter.note(f"step {step}, reward {scores.total[0]:.2f}: {first}")

    def last_good(self) -> str:
        """Return which checkpoint an error leaves behind, in words."""
        newest, _ = checkpoint_folder.newest(self.folder.path / "checkpoints")
        return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"

    def _not_finite(self, name: str, value: float, number: int) -> TrainingError:
        rows = [row.row for row in self.stream.step(number)]
        return not_finite(name, value, self.first + number + 1, rows, self.last_good())


def not_finite(name: str, value: float, step: int, rows: Sequence[str], kept: str) -> TrainingError:
    """Return the error for a loss or gradient norm that is not finite, before its update."""
    return TrainingError(
        f"the {name} is {value} at step {step}",
        f"rows of this step: {', '.join(rows[:8])}; no update was made, {kept}",
        "lower train.learning_rate, check these rows, or use model.dtype: float32",
    )


def _empty_window() -> dict[str, float]:
    return {"steps": 0, "loss": 0.0, "tokens": 0, "supervised_tokens": 0, "seconds": 0.0}
