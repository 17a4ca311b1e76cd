"""Evaluations: when held-out rows are scored while training, and what follows from the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.console.formatting import counted
from tuner.errors import RecipeError
from tuner.methods.full import StagedOptions
from tuner.plan.metrics import METRICS, of_task, unknown_metric
from tuner.recipe.schema_rows import share_of

if TYPE_CHECKING:
    from tuner.data.tokens.prepared import Prepared
    from tuner.methods.method import Method
    from tuner.plan.ground import RecipeAndBase
    from tuner.plan.values import Stage, Values
    from tuner.recipe.schema import Recipe
    from tuner.recipe.schema_eval import EvalSection

# Keys that say when rows are scored and what for: the scores themselves do not depend on them.
WHEN = (
    *("eval.every", "eval.stop", "eval.keep"),
    *("eval.gate", "eval.test", "eval.samples_every"),
)


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a run while it trains.

    Attributes:
        steps: after which held-out rows are scored; the last is that of the run.
        metric: the one that best weights and an early end go by.
        higher: whether more of it is better.
        keep_best: whether the run ends with the weights of its best evaluation.
        patience: evaluations without a gain before training stops; None: it never does.
        min_change: what counts as a gain: a difference, or a share such as `0.1%`.
    """

    steps: tuple[int, ...]
    metric: str
    higher: bool
    keep_best: bool
    patience: int | None
    min_change: str | float

    @property
    def selects(self) -> bool:
        """Whether the rows decide which weights a run ends with."""
        return self.keep_best or self.patience is not None

    def better(self, value: float, than: float | None) -> bool:
        """Return whether a value of the metric is better at all."""
        return than is None or (value > than if self.higher else value < than)

    def gains(self, value: float, since: float | None) -> bool:
        """Return whether a value is better by `min_change` at least."""
        if since is None or not self.better(value, since):
            return since is None
        share = share_of(self.min_change)
        wanted = float(self.min_change) if share is None else share * abs(since)
        return abs(value - since) >= wanted


def keeps_best(section: EvalSection) -> bool:
    """Return whether a run ends with the weights of its best evaluation."""
    return section.keep == "best" or (section.keep == "auto" and section.stop is not None)


def contradictions(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    """Yield what the keys of evaluations and samples contradict, one line each."""
    section = recipe.eval
    if section.test and not section.enabled:
        yield f"eval.test: {section.test}, but eval.enabled: false; leave out one of them"
    if section.samples_every is not None and not section.samples:
        yield (
            f"eval.samples_every: {section.samples_every}, but eval.samples: 0; set "
            "eval.samples: 1, or leave out eval.samples_every"
        )
    asked = {"eval.stop": section.stop is not None, "eval.keep: best": section.keep == "best"}
    keys = [key for key, given in asked.items() if given]
    if section.every is None:
        for key in keys:
            yield (
                f"{key}, but nothing is scored while training; set eval.every: 10%, or leave out "
                f"{key.partition(':')[0]}"
            )
    elif not section.enabled:
        yield f"eval.every: {section.every}, but eval.enabled: false; leave out one of them"
    for key in keys:
        if isinstance(recipe.method, StagedOptions):
            yield (
                f"{key} and method.name: staged, which trains other weights in each stage; leave "
                f"out {key.partition(':')[0]}"
            )
        elif not method.whole_at_any_step:
            yield (
                f"{key} and method.name: {method.name}, whose ranks are final only towards the "
                f"last step; leave out {key.partition(':')[0]}"
            )


def decide(
    base: RecipeAndBase,
    metrics: Sequence[str],
    prepared: Prepared,
    stages: Sequence[Stage],
    values: Values,
) -> Evaluations | None:
    """Decide the evaluations of a run; None: none while it trains.

    Args:
        base: the recipe.
        metrics: those that are measured.
        prepared: the rows.
        stages: the steps.
        values: gets what is decided.

    Raises:
        RecipeError: there is nothing to score; the metric is not measured, or is no measure of
            quality; a key can have no effect.
    """
    recipe = base.recipe
    section = recipe.eval
    if section.every is None:
        return None
    best = keeps_best(section)
    why = "training stops early" if best else "eval.stop is not set"
    values.set_auto("eval.keep", "best" if best else "last", why)
    if not prepared.eval:
        raise RecipeError(
            f"eval.every: {section.every}, but there are no held-out rows",
            f"data.eval: {recipe.data.eval}",
            "set data.eval: 0.1, or leave out eval.every",
        )
    metric = _metric(recipe, base.loaded.task, metrics)
    copies = recipe.rlhf.copies if recipe.rlhf is not None and recipe.rlhf.draws else 1
    rows = len(prepared.train) * copies
    steps = _steps(section.every, stages, rows, recipe.train.batch_size)
    made = Evaluations(
        steps=steps,
        metric=metric,
        higher=METRICS[metric].better == "higher",
        keep_best=best,
        patience=section.stop.patience if section.stop else None,
        min_change=section.stop.min_change if section.stop else 0.0,
    )
    _refuse_without_effect(section, made)
    return made


def sampled(recipe: Recipe, prepared: Prepared, stages: Sequence[Stage]) -> tuple[int, ...]:
    """Return the steps after which held-out prompts are answered; after the last they are anyway.

    Raises:
        RecipeError: there is nothing to answer.
    """
    every = recipe.eval.samples_every
    if every is None:
        return ()
    if not prepared.eval:
        raise RecipeError(
            f"eval.samples_every: {every}, but there are no held-out rows",
            f"data.eval: {recipe.data.eval}",
            "set data.eval: 0.1, or leave out eval.samples_every",
        )
    copies = recipe.rlhf.copies if recipe.rlhf is not None and recipe.rlhf.draws else 1
    found = _steps(every, stages, len(prepared.train) * copies, recipe.train.batch_size)
    return found[:-1]


def _metric(recipe: Recipe, task: str, metrics: Sequence[str]) -> str:
    """Return the metric that best weights and an early end go by."""
    stop, own = recipe.eval.stop, of_task(recipe, task)
    goals = [name for name in metrics if METRICS[name].goal]
    asked = stop.metric if stop else "auto"
    if asked == "auto" and goals:
        return goals[0]
    if asked == "auto" or not metrics:
        raise RecipeError(
            f"eval.every: {recipe.eval.every}, but no metric says how good the model is",
            f"eval.metrics: {', '.join(metrics) or 'none'}",
            f"set eval.metrics: [{own[0]}], or leave it out",
        )
    known = [name for name in own if METRICS[name].goal]
    if asked not in own:
        raise unknown_metric(asked, known, f" for `tuner {task}`", "eval.stop.metric")
    if not METRICS[asked].goal:
        raise RecipeError(
            f"eval.stop.metric: {asked} describes a model and does not say how good it is",
            f"training towards less or more of {asked} alone is no aim",
            f"set eval.stop.metric to one of {', '.join(goals or known)}",
        )
    if asked not in metrics:
        raise RecipeError(
            f"eval.stop.metric: {asked} is not measured",
            f"eval.metrics: {', '.join(metrics)}",
            f"set eval.metrics: [{', '.join([*metrics, asked])}]",
        )
    return asked


def _steps(every: int | str, stages: Sequence[Stage], rows: int, batch: int) -> tuple[int, ...]:
    """Return the steps after which rows are scored."""
    last = stages[-1].stop
    if isinstance(every, int):
        found = set(range(every, last, every))
    elif every == "epoch":
        found = {
            min(stage.stop, stage.start + math.ceil(epoch * rows / batch))
            for stage in stages
            for epoch in range(1, math.ceil(stage.steps * batch / rows) + 1)
        }
    else:
        share = share_of(every) or 1.0
        found = {max(1, round(n * share * last)) for n in range(1, math.ceil(1 / share))}
    return tuple(sorted({step for step in found if step < last} | {last}))


def _refuse_without_effect(section: EvalSection, made: Evaluations) -> None:
    """Refuse what can never have an effect in so few evaluations."""
    count, often = len(made.steps), "set a smaller eval.every (such as 5%)"
    if made.patience is not None and made.patience + 1 >= count:
        fitting = f"eval.stop.patience: {count - 2} or less, or " if count > 2 else ""
        raise RecipeError(
            f"eval.stop.patience: {made.patience} can never stop this run early",
            f"eval.every: {section.every} is {counted(count, 'evaluation')}, the last of them "
            f"after the last step; the first one is what the next {made.patience} have to improve "
            "on",
            f"set {fitting}{often.removeprefix('set ')}; or leave out eval.stop",
        )
    if made.keep_best and count == 1:
        raise RecipeError(
            "eval.keep: best, but only the last step is scored",
            f"eval.every: {section.every} comes only at the end of a run of "
            f"{counted(made.steps[-1], 'step')}",
            f"{often}, or leave out eval.keep",
        )


def facts(made: Evaluations | None, rows: int) -> dict[str, dict[str, Any]]:
    """Return what a plan shows of the evaluations; empty without any."""
    if made is None:
        return {}
    shown: dict[str, Any] = {"times": len(made.steps), "rows_each": rows}
    shown["first_after_step"] = made.steps[0]
    if made.selects:
        shown["by"] = f"{made.metric}, {'higher' if made.higher else 'lower'} is better"
        shown["ends_with"] = "the best weights" if made.keep_best else "the last weights"
    if made.patience is not None:
        gain = f" of {made.min_change}" if made.min_change else ""
        shown["stops_after"] = f"{made.patience} without a gain{gain}"
    return {"evaluation": shown}
