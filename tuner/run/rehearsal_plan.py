"""The plan of a rehearsal: that of the run, with few steps, and the longest rows first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data.tokens.order import position

if TYPE_CHECKING:
    from tuner.plan.plan import Plan

# Steps of each stage; held-out rows that are scored.
STEPS, ROWS = 3, 8


def short_of(plan: Plan, output: Path) -> Plan:
    """Return the plan of a few steps per stage, all of them logged and the last two sealed."""
    stages, start = [], 0
    for stage in plan.stages:
        steps = min(STEPS, stage.steps)
        stages.append(replace(stage, start=start, stop=start + steps))
        start += steps
    recipe = plan.recipe
    often = {"save_steps": max(1, start - 1), "logging_steps": 1}
    few = {"max_rows": min(ROWS, recipe.eval.max_rows or ROWS)}
    recipe = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update=often),
            "eval": recipe.eval.model_copy(update=few),
        }
    )
    return replace(
        plan,
        output=output,
        stages=tuple(stages),
        evaluations=None,
        loaded=replace(plan.loaded, recipe=recipe),
        prepared=replace(plan.prepared, train=longest_first(plan)),
    )


def longest_first(plan: Plan) -> list[Any]:
    """Return the training rows, reordered so that the longest are in the first step."""
    rows, seed = list(plan.prepared.train), plan.recipe.run.seed
    count = min(plan.recipe.train.batch_size, len(rows))
    places = [position(index, len(rows), seed) for index in range(count)]
    lengths = {index: row.num_tokens for index, row in enumerate(rows)}
    longest = sorted(lengths, key=lambda index: -lengths[index])[:count]
    wanted = [index for index in longest if index not in places]
    free = [place for place in places if place not in longest]
    for one, other in zip(free, wanted, strict=True):
        rows[one], rows[other] = rows[other], rows[one]
    # The very longest share a micro-batch.
    taken = sorted((rows[place] for place in places), key=lambda row: -row.num_tokens)
    for place, row in zip(places, taken, strict=True):
        rows[place] = row
    return rows
