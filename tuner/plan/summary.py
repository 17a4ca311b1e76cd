"""The sentence that says what a run of a plan will do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tuner.console import formatting
from tuner.plan import costs, rates
from tuner.schema.suggest import listed

if TYPE_CHECKING:
    from tuner.plan.plan import Plan

_HEADS = {"language": "", "sequence": "the encoder-decoder ", "classes": "a classifier on "}


def sentence(plan: Plan) -> str:
    """Return what is trained from what, where, for how long, and what it leaves behind."""
    return f"{', '.join(_clauses(plan))}; {_results(plan)}"


def _clauses(plan: Plan) -> Iterator[str]:
    total, trained = (plan.facts["parameters"][key] for key in ("total", "trainable"))
    yield (
        f"trains {_what(plan)}{plan.base.name} with {plan.method.name}: {trained:,} of "
        f"{formatting.counted(total, 'parameter')} ({100 * trained / (total or 1):.3g} %)"
    )
    rows = formatting.counted(len(plan.prepared.train), _noun(plan))
    steps = formatting.counted(plan.steps, "step")
    yield f"on {rows} in {steps} of {plan.recipe.train.batch_size}"
    processes = plan.devices.world
    yield f"on {formatting.counted(processes, 'GPU') if plan.device == 'cuda' else 'the CPU'}" + (
        f" in {processes} processes" if processes > 1 and plan.device == "cpu" else ""
    )
    if about := plan.facts.get("time", {}).get("about"):
        yield f"in about {about}"


def _what(plan: Plan) -> str:
    if plan.task == "rlhf":
        return f"a policy ({plan.rlhf.algorithm}) on "
    return "a reward model on " if plan.task == "reward" else _HEADS.get(plan.head.name, "")


def _noun(plan: Plan) -> str:
    if plan.draws:
        return "prompt"
    if plan.task == "sft":
        return "row" if plan.prepared.report.get("split_rows", 0) == 0 else "piece"
    if plan.task == "rlhf" and plan.rlhf.algorithm == "kto":
        return "rated answer"
    return "comparison" if plan.task == "reward" else "pair"


def _results(plan: Plan) -> str:
    held = rates.scored_rows(plan)
    often = formatting.counted(costs.evaluated(plan), "time")
    during = f", {often} during" if costs.evaluated(plan) else ""
    rows = formatting.counted(held, "held-out row")
    scores = f"scores {rows} before{during} and after; " if held else ""
    peak, space = plan.facts["memory"]["peak"], plan.facts["disk"]["total"]
    return (
        f"{scores}takes about {formatting.size(peak)} of memory and {formatting.size(space)} of "
        f"disk; writes {listed(plan.formats) or 'no artefact'} to {plan.output}"
    )
