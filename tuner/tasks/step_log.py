"""What a step leaves besides weights: its line of metrics, progress, and sampled answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.rewards.response import Response, Scores
    from tuner.tasks.leg import Leg


def write(leg: Leg, metrics: Mapping[str, Any], shown: Mapping[str, Any]) -> bool:
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
