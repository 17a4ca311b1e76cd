"""Scores and answers on held-out rows. A metric is one function here, and its row in METRICS.

`score` runs the model once over every row (rows with labels once per prompt, with all labels in one
batch) and passes the observations to each metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.report import sequences_sha256
from tuner.data.tokens.prepared import EvalRow
from tuner.evaluate import generation, implicit, likelihood, preference, rollouts
from tuner.machine import ranks
from tuner.machine.imports import function
from tuner.plan.metrics import METRICS
from tuner.tasks import precision

if TYPE_CHECKING:
    from tuner.data.tokens.example import Example
    from tuner.plan.plan import Plan

# By task, for those that sample no answers.
OBSERVE: dict[str, Callable[..., Sequence[Any]]] = {
    "sft": likelihood.observe,
    "reward": preference.observe,
    "rlhf": implicit.observe,
}


# Their digest, in the record of a run.
ROWS = "held_out_sha256"


def rows(plan: Plan) -> list[Any]:
    """Return the held-out rows that are scored."""
    return plan.prepared.eval[: plan.recipe.eval.max_rows]


def rows_sha256(plan: Plan) -> str:
    """Return the sha256 over the held-out rows that are scored."""
    numbers = [
        numbers
        for row in rows(plan)
        for numbers in (_of_example(row.example) if isinstance(row, EvalRow) else row.numbers)
    ]
    return sequences_sha256(numbers)


def _of_example(example: Example) -> list[Sequence[int]]:
    label = -1 if example.label is None else example.label
    goals = [[int(goal) for goal in example.goals]] if example.goals else []
    return [example.input_ids, example.target, [label], *goals]


@torch.no_grad()
def score(
    plan: Plan,
    model: Any,
    tick: Callable[[int, int], None] = lambda done, total: None,
    judge: rollouts.Judge | None = None,
) -> dict[str, float]:
    """Compute every metric of the plan on the held-out rows, as flat name -> number.

    Args:
        plan: says which metrics and rows.
        model: the live model; left in the mode it was in.
        tick: called with (rows_done, rows_total).
        judge: the rewards of a policy that samples answers.
    """
    if plan.task == "rlhf" and plan.rlhf.draws:
        assert judge is not None
        earned = rollouts.observe(plan, model, judge, tick)
        return values(plan.metrics, earned) | rollouts.parts(earned)
    with _evaluating(model), precision.as_trained(plan):
        observed = _spread(OBSERVE[plan.task], plan, model, rows(plan), tick)
        if any(METRICS[name].generates for name in plan.metrics):
            answers = _spread(generation.answer, plan, model, rows(plan), tick)
            observed = [
                item.with_answer(answer) for item, answer in zip(observed, answers, strict=True)
            ]
    return values(plan.metrics, observed)


def _spread(
    observe: Callable[..., Sequence[Any]],
    plan: Plan,
    model: Any,
    items: Sequence[Any],
    tick: Callable[[int, int], None],
) -> list[Any]:
    """Observe the rows, each in one process."""
    return ranks.spread(
        items,
        lambda own, tick: observe(plan, model, own, tick),
        tick,
        whole=plan.devices.sharded,
    )


def values(names: Sequence[str], observed: Sequence[Any]) -> dict[str, float]:
    """Return the metrics of these names that the observations allow."""
    found = {name: function(METRICS[name].function)(observed) for name in names}
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def samples(plan: Plan, model: Any) -> list[dict[str, str]]:
    """Return greedy answers to the first held-out prompts: prompt, reference, answer."""
    if plan.task == "rlhf" and plan.rlhf.draws:
        return rollouts.samples(plan, model)
    chosen = plan.prepared.eval[: plan.recipe.eval.samples]
    with _evaluating(model), precision.as_trained(plan):
        if plan.task == "reward":
            judged = preference.observe(plan, model, chosen, lambda done, total: None)
            return [preference.sample(item) for item in judged]
        answers = generation.answer(plan, model, chosen)
    return [
        {"prompt": row.prompt_text, "reference": row.reference, "answer": answer}
        for row, answer in zip(chosen, answers, strict=True)
    ]
