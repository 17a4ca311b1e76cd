"""METRICS: what is measured on held-out rows, and which metrics a run is scored with.

Each metric is one row here and one function in `tuner/evaluate/`. Only names, so that a plan can
refuse without loading torch: the function of a row is looked up when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tuner.data.tokens.prepared import Prepared
from tuner.errors import RecipeError
from tuner.machine.imports import Place
from tuner.plan.values import Values
from tuner.recipe.schema import Recipe
from tuner.recipe.schema_preference import OF_ROWS
from tuner.schema.suggest import suggestion


@dataclass(frozen=True)
class Metric:
    """A figure over the held-out rows.

    Attributes:
        name: as in `eval.metrics` and `run.json`.
        better: lower or higher.
        function: computes it from the observations; returns None where no row has it.
        tasks: those whose held-out rows it measures.
        generates: whether it needs generated answers.
        goal: whether it says how good a model is; others only describe it.
    """

    name: str
    better: str
    function: Place
    tasks: tuple[str, ...] = ("sft",)
    generates: bool = False
    goal: bool = True


_SEVERAL = ("multi_label",)
_PAIRS, _REWARD, _RLHF = ("reward", *OF_ROWS), ("reward",), ("rlhf",)
METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric("loss", "lower", "tuner.evaluate.likelihood:mean_loss", ("sft", *_SEVERAL)),
        Metric("perplexity", "lower", "tuner.evaluate.likelihood:perplexity"),
        Metric("token_accuracy", "higher", "tuner.evaluate.likelihood:token_accuracy"),
        Metric("label_accuracy", "higher", "tuner.evaluate.likelihood:label_accuracy"),
        Metric("exact_match", "higher", "tuner.evaluate.generation:exact_match", generates=True),
        Metric("micro_f1", "higher", "tuner.evaluate.several:micro_f1", _SEVERAL),
        Metric("macro_f1", "higher", "tuner.evaluate.several:macro_f1", _SEVERAL),
        Metric("subset_accuracy", "higher", "tuner.evaluate.several:subset_accuracy", _SEVERAL),
        Metric("pair_loss", "lower", "tuner.evaluate.preference:loss", _PAIRS),
        Metric("pair_accuracy", "higher", "tuner.evaluate.preference:accuracy", _PAIRS),
        Metric("margin", "higher", "tuner.evaluate.preference:margin", _PAIRS),
        Metric(
            "calibration_error", "lower", "tuner.evaluate.preference:calibration_error", _REWARD
        ),
        Metric(
            "length_bias", "lower", "tuner.evaluate.preference:length_bias", _REWARD, goal=False
        ),
        Metric("reward", "higher", "tuner.evaluate.rollouts:mean_reward", _RLHF),
        Metric("reward_ci95", "lower", "tuner.evaluate.rollouts:reward_ci95", _RLHF, goal=False),
        Metric("kl", "lower", "tuner.evaluate.rollouts:kl", _RLHF, goal=False),
        Metric(
            "response_length", "lower", "tuner.evaluate.rollouts:response_length", _RLHF, goal=False
        ),
        Metric("ended_share", "higher", "tuner.evaluate.rollouts:ended_share", _RLHF),
    )
}


def unknown_metric(
    name: str, known: Iterable[str], where: str = "", key: str = "eval.metrics"
) -> RecipeError:
    """Return the error for a metric that there is not."""
    names = list(known)
    many = "one or more" if key == "eval.metrics" else "one"
    return RecipeError(
        f"{key}: there is no metric '{name}'{where}",
        suggestion(name, names),
        f"set {key} to {many} of {', '.join(names)}; or leave it out",
    )


def of_task(recipe: Recipe, task: str) -> tuple[str, ...]:
    """Return the metrics of a task, its objective first."""
    measured = _measured_as(recipe, task)
    return tuple(row.name for row in METRICS.values() if measured in row.tasks)


def _measured_as(recipe: Recipe, task: str) -> str:
    """The name of a task in METRICS: an algorithm that draws no answers has metrics of its own, and
    so have rows with any number of labels."""
    if task == "sft" and recipe.data.multi_label:
        return "multi_label"
    if recipe.rlhf is None or recipe.rlhf.draws:
        return task
    return recipe.rlhf.algorithm


def metrics(recipe: Recipe, task: str, prepared: Prepared, values: Values) -> tuple[str, ...]:
    """Decide `eval.metrics`.

    Raises:
        RecipeError: one of them is not for this task or these rows.
    """
    own, task = of_task(recipe, task), _measured_as(recipe, task)
    if task == "sft":
        chosen = _of_sft(prepared, values)
    else:
        chosen = tuple(values.set_auto("eval.metrics", list(own), f"the metrics of {task}"))
    for name in chosen:
        if name not in own:
            raise unknown_metric(name, own, f" for `tuner {task}`")
    return chosen


def _of_sft(prepared: Prepared, values: Values) -> tuple[str, ...]:
    """Return the metrics that the rows allow: those of classes, labels, or text alone."""
    labelled = any(row.options for row in prepared.eval)
    fitting = ["loss", "perplexity", "token_accuracy", *(["label_accuracy"] if labelled else [])]
    if any(row.example.label is not None for row in prepared.eval):
        labelled, fitting = True, ["loss", "label_accuracy"]
    why = "the rows have labels" if labelled else "the rows have no labels"
    chosen = tuple(values.set_auto("eval.metrics", fitting, why))
    if "label_accuracy" in chosen and not labelled and prepared.eval:
        raise RecipeError(
            "eval.metrics: label_accuracy, but no held-out row has a label",
            "none of the answers is one of data.labels",
            "set data.labels, or leave label_accuracy out",
        )
    return chosen
