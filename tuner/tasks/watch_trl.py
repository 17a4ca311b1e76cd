"""The callback that connects a trainer of trl with the run.

trl computes the loss itself and reports it, with its own metrics, only after the step: the line of
metrics is written then, and after it the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.tasks.watch import not_finite

if TYPE_CHECKING:
    from tuner.tasks.watch import Watch

# A step's metrics for the log, from its number (from 1) and trl's own.
Figures = Callable[[int, Mapping[str, float]], dict[str, Any]]


class WatchTrl(TrainerCallback):
    """The callback of a trainer of trl.

    Args:
        watch: the run's own; `begin` was called.
        figures: makes the metrics of a step, and may stop the run with an error.
        shown: which of them are shown on the terminal.
    """

    def __init__(self, watch: Watch, figures: Figures, shown: tuple[str, ...]) -> None:
        self.watch, self.figures, self.shown = watch, figures, shown

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed the step, which starts with sampling."""
        self.watch.start_step(self.watch.first + state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clip, and stop before the optimizer takes a step that is not finite.

        Gradients of zero are no error here: equal rewards at the start give none.
        """
        self.watch.clip(state.global_step)
        self.watch.rate = float(kwargs["lr_scheduler"].get_last_lr()[0])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call the method's hook after an update."""
        self.watch.on_optimizer_step(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record the step, seal a checkpoint if one is due, and end if asked to."""
        if logs is None or "loss" not in logs:
            return
        watch = self.watch
        step, rows = watch.first + state.global_step, watch.stream.step(state.global_step - 1)
        watch.place += len(rows)
        loss = float(logs["loss"])
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise not_finite("loss", loss, step, [row.row for row in rows], watch.last_good())
        metrics = {
            "step": step,
            "loss": loss,
            **self.figures(step, logs),
            "grad_norm": watch.grad_norm,
            "learning_rate": watch.rate,
            "epoch": watch.place / len(watch.stream.examples),
            "seconds": time.perf_counter() - watch.step_started,
        }
        watch.log(step, metrics)
        watch.reporter.progress(
            step, watch.plan.steps, {name: metrics[name] for name in self.shown}
        )
        if watch.end_step(step, kwargs["optimizer"], kwargs["lr_scheduler"]):
            control.should_training_stop = True
