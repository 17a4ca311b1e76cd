"""Time and cost of a run, from a measured rate."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tuner.console import formatting
from tuner.plan import evaluations, rates

if TYPE_CHECKING:
    from tuner.machine.hardware import Machine
    from tuner.plan.plan import Plan
    from tuner.plan.rates import Rate


@dataclass(frozen=True)
class Times:
    """Seconds of the parts of a whole run."""

    load: float
    scoring: float
    training: float
    saving: float
    export: float
    evaluating: float = 0.0

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return float(sum(asdict(self).values()))

    def as_dict(self) -> dict[str, float]:
        """Return the parts and their sum, to the tenth of a second."""
        return {key: round(item, 1) for key, item in {**asdict(self), "total": self.total}.items()}


def times(plan: Plan, rate: Rate) -> Times:
    """Return the times of a whole run of the plan at a rate.

    Training time follows from the number of tokens, which is known; where answers are sampled it
    follows from the number of steps.
    """
    by_steps = plan.steps * rate.step
    training = by_steps if plan.draws else training_tokens(plan) / rate.tokens_per_second
    once = rates.scored_rows(plan) * rate.score_row + rate.samples
    return Times(
        load=rate.load,
        scoring=scorings(plan) * once + len(plan.prepared.test) * rate.score_row,
        training=training,
        saving=rates.saves(plan) * rate.save,
        export=rate.export + sum(rate.made.get(name, 0.0) for name in _made(plan)),
        evaluating=_evaluating(plan, rate) + len(plan.sampled) * rate.samples,
    )


def _evaluating(plan: Plan, rate: Rate) -> float:
    """Return the time of the evaluations while training: the last one is that after training, and
    any of the others may be the best so far, which is sealed."""
    count = evaluated(plan)
    sealed = rate.save if plan.evaluations and plan.evaluations.keep_best else 0.0
    return count * (rates.scored_rows(plan) * rate.score_row + sealed)


def evaluated(plan: Plan) -> int:
    """Return how often held-out rows are scored while the run trains, besides its end."""
    return len(plan.evaluations.steps) - 1 if plan.evaluations else 0


def _made(plan: Plan) -> tuple[str, ...]:
    """Return the formats with a time of their own, and the key of what they share."""
    return (*plan.made_formats, rates.SHARED) if plan.made_formats else ()


def unmeasured(plan: Plan, rate: Rate) -> list[str]:
    """Return the formats whose time no run or rehearsal has measured."""
    return [name for name in plan.made_formats if name not in rate.made]


def scorings(plan: Plan) -> int:
    """Return how often held-out rows are scored: before, after, between stages, unquantized."""
    return 1 + len(plan.stages) + int(plan.qat)


def training_tokens(plan: Plan) -> float:
    """Return the tokens of all rows that the run trains on, each row once per epoch."""
    rows = plan.prepared.train
    count = min(
        plan.steps * plan.recipe.train.batch_size,
        math.ceil(round(float(plan.values["train.epochs"].value) * len(rows), 6)),
    )
    whole, rest = divmod(count, len(rows))
    every = float(sum(row.num_tokens for row in rows))
    # The rows of a last, partial epoch are random: count them at mean length.
    return whole * every + rest * every / len(rows)


def cost(plan: Plan, seconds: float) -> float | None:
    """Return the cost of all machines for a time, in the currency of `run.price_per_hour`."""
    price = plan.recipe.run.price_per_hour
    return None if price is None else price * plan.devices.nodes * seconds / 3600


def facts(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Return the evaluations, and the time and cost, where it was measured, that a plan shows."""
    shown: dict[str, Any] = evaluations.facts(plan.evaluations, rates.scored_rows(plan))
    if plan.sampled:
        count = len(plan.prepared.eval[: plan.recipe.eval.samples])
        first = plan.sampled[0]
        shown["samples"] = {
            "times": len(plan.sampled),
            "prompts_each": count,
            "first_after_step": first,
        }
    found = rates.measured_rates(plan, machine)
    if found is None:
        return shown
    seconds = times(plan, found.rate)
    which = "these settings" if found.same else "this base and method, other settings"
    time: dict[str, Any] = {
        "about": formatting.about(seconds.total),
        "measured": f"on this machine {found.rate.date} (a {found.rate.by} with {which})",
        "seconds": seconds.as_dict(),
    }
    if seconds.evaluating:
        time["evaluations"] = f"{formatting.about(seconds.evaluating)} of it"
    if missing := unmeasured(plan, found.rate):
        time["not_counted"] = [f"export {name}" for name in missing]
    if (amount := cost(plan, seconds.total)) is not None:
        # An estimate: no more digits than are shown.
        time["cost"] = float(formatting.money(amount).replace(",", ""))
    return {**shown, "time": time}
