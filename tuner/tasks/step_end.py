"""What a step leaves: a line of metrics, sampled answers, held-out scores, a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuner.machine import ranks
from tuner.record import checkpoint
from tuner.tasks.averaged import averaged
from tuner.tasks.watch import undisturbed

if TYPE_CHECKING:
    from pathlib import Path

    from tuner.rewards.response import Response, Scores
    from tuner.tasks.leg import Leg


def log(leg: Leg, metrics: Mapping[str, Any], shown: Mapping[str, Any]) -> bool:
    """Write a line of metrics if one is due after the current step; return whether it was.

    Args:
        leg: the steps.
        metrics: of the line.
        shown: metrics for the terminal, which shows those of every step.
    """
    step = leg.step.number + 1
    due = step % leg.plan.recipe.train.logging_steps == 0 or step == leg.stage.stop
    if due:
        leg.folder.append_metrics({"step": step, **metrics})
    leg.reporter.progress(step, leg.plan.steps, shown)
    return due


def samples(leg: Leg, answers: Sequence[Response], scores: Scores) -> None:
    """Write all sampled answers of the current step, if due, and show the first one."""
    step, every = leg.step.number + 1, leg.plan.rlhf.sample_steps
    if not every or (step != 1 and step % every != 0):
        return
    for number, answer in enumerate(answers):
        leg.folder.append_sample(
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
    leg.reporter.note(f"step {step}, reward {scores.total[0]:.2f}: {first}")


def close(leg: Leg) -> bool:
    """Score held-out rows, answer some, and seal a checkpoint where that is due after the current
    step; return whether to end here.

    A signal to one process ends all of them after the same step.

    Raises:
        TrainingError: the processes no longer train the same tensors, or a score is not finite.
    """
    step = leg.step.number + 1
    if leg.watch.due(step):
        _evaluate(leg, step)
    if step in leg.plan.sampled:
        _sample(leg, step)
    last = step == leg.stage.stop or leg.watch.stopped
    if _stops(leg) or last or step % leg.plan.recipe.train.save_steps == 0:
        _seal(leg, step, leg.folder.checkpoints, leg.plan.recipe.train.checkpoints)
        # A signal that came meanwhile need not wait for another step.
        leg.step.signal = None
    return _stops(leg) or leg.watch.stopped


def _evaluate(leg: Leg, step: int) -> None:
    """Score the model on held-out rows, and seal it apart where it is the best one so far."""
    watch, began = leg.watch, time.perf_counter()
    with undisturbed(leg.trained.model), averaged(leg.optimizer):
        # The scores of rank 0 decide for all.
        scores = ranks.share(watch.score(leg.plan))
    better = watch.see(step, scores)
    line = {f"eval_{name}": value for name, value in scores.items()}
    seconds = time.perf_counter() - began
    leg.folder.append_metrics({"step": step, **line, "eval_seconds": seconds, "eval_best": better})
    leg.reporter.evaluation(step, scores, watch.said())
    if better and watch.keeps_best:
        _seal(leg, step, leg.folder.best, None)


def _sample(leg: Leg, step: int) -> None:
    """Answer held-out prompts, write the answers, and show the first one."""
    with undisturbed(leg.trained.model):
        answers = leg.watch.answer(leg.plan)
    for each in answers:
        leg.folder.append_sample({"step": step, "held_out": True, **each})
    if answers:
        leg.reporter.note(f"step {step}: {answers[0]['prompt']}  ->  {answers[0]['answer']}")


def _stops(leg: Leg) -> bool:
    """Return whether any process was asked to stop; all then know why."""
    if leg.step.signal is None or ranks.place().world == 1:
        leg.total([])
    if leg.step.signal and leg.stop.requested is None:
        leg.stop.requested = leg.step.signal
    return bool(leg.step.signal)


def _seal(leg: Leg, step: int, folder: Path, keep: int | None) -> None:
    """Write checkpoint `step` into a folder; the metrics up to it are on the disk before."""
    ranks.check_replicas(leg.parameters, f"after step {step}")
    # A process that ends before the checkpoint is sealed would count as failed.
    with averaged(leg.optimizer):
        ranks.by_first(lambda: _save(leg, step, folder, keep))


def _save(leg: Leg, step: int, folder: Path, keep: int | None) -> None:
    plan = leg.plan
    leg.folder.sync_metrics()
    checkpoint.save(
        folder,
        step,
        dict(leg.parameters),
        leg.optimizer,
        leg.schedule,
        {
            "stage": plan.stages.index(leg.stage),
            "window": leg.window,
            "method": plan.method.hooks.state(leg.trained.model),
            "task": leg.task_state(),
            "identity": plan.identity(),
            "processes": plan.devices.world,
            **({"loss_scale": leg.loss_scale.state} if leg.loss_scale.state else {}),
            **({"evaluation": leg.watch.state} if leg.watch.asked else {}),
        },
        keep=keep,
    )
