"""Which metrics a run is scored by."""

from __future__ import annotations

from tuner.data.prepared import Prepared
from tuner.errors import RecipeError
from tuner.plan.values import Values
from tuner.recipe.schema import Recipe

# What is told of each task's held-out rows; `evaluate.METRICS` has their functions.
TASK_METRICS = {
    "reward": ("pair_loss", "pair_accuracy", "margin", "calibration_error", "length_bias"),
    "rlhf": ("reward", "reward_ci95", "kl", "response_length", "ended_share"),
    "dpo": ("pair_loss", "pair_accuracy", "margin"),
}


def metrics(recipe: Recipe, task: str, prepared: Prepared, values: Values) -> tuple[str, ...]:
    if recipe.rlhf is not None and not recipe.rlhf.draws:
        task = recipe.rlhf.algorithm
    if task in TASK_METRICS:
        own = TASK_METRICS[task]
        chosen = tuple(values.set_auto("eval.metrics", list(own), f"what {task} is judged by"))
        for name in chosen:
            if name not in own:
                raise RecipeError(
                    f"eval.metrics: {name} is not a metric of `tuner {task}`",
                    f"it has {', '.join(own)}",
                    "name some of these, or leave out eval.metrics",
                )
        return chosen
    labelled = any(row.options for row in prepared.eval)
    fitting = ["loss", "perplexity", "token_accuracy", *(["label_accuracy"] if labelled else [])]
    if any(row.example.label is not None for row in prepared.eval):
        labelled, fitting = True, ["loss", "label_accuracy"]
    why = "the rows have labels" if labelled else "what every row has"
    chosen = tuple(values.set_auto("eval.metrics", fitting, why))
    if "label_accuracy" in chosen and not labelled and prepared.eval:
        raise RecipeError(
            "eval.metrics: label_accuracy, but no held-out row has a label",
            "none of the answers is one of data.labels",
            "set data.labels, or leave label_accuracy out",
        )
    return chosen
