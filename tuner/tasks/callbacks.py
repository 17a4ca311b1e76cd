"""The callbacks between a Trainer and the run: every step is seeded, checked, logged and sealed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.data.tokens.order import micro_batches
from tuner.errors import TrainingError
from tuner.tasks import gradients, step_end
from tuner.tasks.leg import EMPTY

if TYPE_CHECKING:
    from tuner.data.tokens.example import Example
    from tuner.data.tokens.order import Stream
    from tuner.tasks.leg import Leg

# A step's metrics for the log, from those of trl.
Figures = Callable[[Mapping[str, float]], dict[str, Any]]


class StepCallback(TrainerCallback):
    """What the steps of all Trainers have in common.

    Args:
        leg: the steps.
        stream: their rows.
    """

    def __init__(self, leg: Leg, stream: Stream) -> None:
        self.leg = leg
        self.stream = stream
        # Metrics of the update of the current step.
        self.update: dict[str, float] = {}

    @property
    def rows(self) -> list[Example]:
        """The rows of the current step."""
        return self.stream.step(self.leg.step.number - self.leg.first)

    def clip(self, loss: float = 0.0) -> None:
        """Clip, and stop before the optimizer takes a step that is not finite.

        Gradients of zero are no error here: equal rewards at the start give none.
        """
        self.update = {
            "grad_norm": gradients.clip(self.leg, self.rows, loss),
            "learning_rate": float(self.leg.schedule.get_last_lr()[0]),
            "epoch": self.stream.epochs(self.leg.step.number - self.leg.first),
            **self.leg.loss_scale.metrics,
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Continue with the scale of float16's loss that the steps before have found."""
        self.leg.loss_scale.begin(getattr(kwargs["optimizer"], "scaler", None))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed the step."""
        self.leg.begin_step(self.leg.first + state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clip."""
        self.clip()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call the method's hook after an update, while the gradients are still there."""
        leg = self.leg
        leg.plan.method.hooks.after_update(leg.trained.model, leg.step.number + 1)
        leg.loss_scale.keep()


class StepLoss:
    """A loss function that adds up what it returns over the micro-batches of a step.

    Args:
        leg: the steps.
        stream: their rows.
        function: of (outputs, labels, num_items_in_batch), and of weights if there are some.
        count: of the rows of a step, what their loss is divided by; else its number of labels.

    Attributes:
        weights: of the targets of the micro-batch to come.
    """

    def __init__(
        self,
        leg: Leg,
        stream: Stream,
        function: Callable[..., torch.Tensor],
        count: Callable[[Any], float] | None = None,
    ) -> None:
        self.leg = leg
        self.stream = stream
        self.function = function
        self.count = count
        self.weights: torch.Tensor | None = None
        self.penalty = leg.plan.method.hooks.penalty(leg.trained.model, leg.plan.recipe.method)
        self.parts: list[torch.Tensor] = []

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the loss of a micro-batch, with its share of the method's penalty."""
        if self.count is not None:
            num_items_in_batch = self.count(self.rows())
        weighed = {} if self.weights is None else {"weights": self.weights}
        loss = self.function(outputs, labels, num_items_in_batch=num_items_in_batch, **weighed)
        # A copy: the Trainer multiplies the loss by the number of processes, in place.
        self.parts.append(loss.detach().clone())
        if self.penalty is not None:
            # Once per step, whatever the number of its micro-batches.
            loss = loss + self.penalty() / self.micro_batches()
        return loss

    def micro_batches(self) -> int:
        """Return the micro-batches of the current step; the last of a stage may have fewer."""
        plan = self.leg.plan
        return micro_batches(len(self.rows()), plan.micro_batch_size, plan.devices.world)

    def rows(self) -> list[Example]:
        """Return the rows of the current step, over all processes."""
        return self.stream.step(self.leg.step.number - self.leg.first)

    def total(self) -> float:
        """Return the loss of the step over all processes, and start the next one."""
        (total,) = self.leg.total([float(sum(self.parts))])
        self.parts.clear()
        return total


class LossCallback(StepCallback):
    """The callback of a Trainer with a loss of ours.

    Args:
        loss: the Trainer's loss function.
    """

    def __init__(self, loss: StepLoss) -> None:
        super().__init__(loss.leg, loss.stream)
        self.loss = loss
        self.total = 0.0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clip, and stop before the optimizer takes a step that is not finite or has no effect."""
        self.total = self.loss.total()
        self.clip(self.total)
        start = self.leg.stage.start
        if self.leg.step.number == start and self.update["grad_norm"] == 0.0:
            raise TrainingError(
                "nothing can be learned",
                f"step {start + 1}: every gradient is zero",
                "train modules that take part in the forward pass: choose other "
                "method.target_modules, or leave them out",
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the step; score and seal if that is due; end if asked to."""
        leg, window, rows = self.leg, self.leg.window, self.rows
        window["steps"] += 1
        window["loss"] += self.total
        window["tokens"] += sum(row.num_tokens for row in rows)
        window["supervised_tokens"] += sum(row.num_targets for row in rows)
        window["seconds"] += time.perf_counter() - leg.step.started
        metrics: dict[str, Any] = {
            **self.update,
            "loss": window["loss"] / window["steps"],
            "tokens": int(window["tokens"]),
            "supervised_tokens": int(window["supervised_tokens"]),
            "seconds": window["seconds"],
        }
        if len(leg.plan.stages) > 1:
            metrics["stage"] = leg.plan.stages.index(leg.stage) + 1
        shown = {key: metrics[key] for key in ("loss", "grad_norm", "learning_rate")}
        speed = round(metrics["tokens"] / metrics["seconds"])
        if step_end.log(leg, metrics, {**shown, "tokens_per_second": speed}):
            window.update(EMPTY)
        control.should_training_stop |= step_end.close(leg)


class TrlCallback(StepCallback):
    """The callback of a trainer of trl.

    trl computes the loss itself and reports it, with its own metrics, only after the step: the line
    of metrics is written then, and after it the checkpoint.

    Args:
        leg: the steps.
        stream: their rows.
        figures: makes the metrics of a step, and may stop the run with an error.
        shown: which metrics are shown on the terminal.
        updates: of the optimizer in a step, each a step to trl.
    """

    def __init__(
        self,
        leg: Leg,
        stream: Stream,
        figures: Figures,
        shown: Sequence[str],
        updates: int = 1,
    ) -> None:
        super().__init__(leg, stream)
        self.figures = figures
        self.shown = shown
        self.updates = updates
        # What trl has logged of the updates of the current step.
        self.logs: list[Mapping[str, float]] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed the step before its first update."""
        number, later = divmod(state.global_step, self.updates)
        if not later:
            self.leg.begin_step(self.leg.first + number)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record the step after its last update; score and seal if due; end if asked to."""
        if logs is None or "loss" not in logs:
            return
        gradients.refuse_not_finite(self.leg, self.rows, "loss", float(logs["loss"]))
        self.logs.append(logs)
        if len(self.logs) < self.updates:
            return
        means = logs
        if self.updates > 1:
            self.leg.schedule.step()
            means = _means(self.logs)
        self.logs.clear()
        metrics = {
            "loss": float(means["loss"]),
            **self.figures(means),
            **self.update,
            "seconds": time.perf_counter() - self.leg.step.started,
        }
        step_end.log(self.leg, metrics, {name: metrics[name] for name in self.shown})
        control.should_training_stop |= step_end.close(self.leg)


def _means(logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the updates that have it; trl has None for others."""
    names = dict.fromkeys(name for each in logs for name in each)
    known = {name: [each[name] for each in logs if each.get(name) is not None] for name in names}
    return {name: sum(values) / len(values) for name, values in known.items() if values}
