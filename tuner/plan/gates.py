"""Gates: what the scores after training must be, for a run to end with exit code 0."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.errors import RecipeError
from tuner.plan.metrics import of_task, unknown_metric
from tuner.recipe.schema_eval import GATE

if TYPE_CHECKING:
    from tuner.data.tokens.prepared import Prepared
    from tuner.recipe.schema import Recipe

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Gate:
    """A condition on a score.

    Attributes:
        text: as the recipe has it.
        metric: what is compared.
        sign: how: one of >=, <=, > and <.
        bound: with what.
    """

    text: str
    metric: str
    sign: str
    bound: float

    @classmethod
    def of(cls, text: str) -> Gate:
        """Return the gate of a text that the schema has accepted."""
        found = re.fullmatch(GATE, text)
        assert found is not None
        return cls(text, found[1], found[2], float(found[3]))

    def passes(self, value: float | None) -> bool:
        """Return whether a score passes; one that is missing or no number does not."""
        return value is not None and _SIGNS[self.sign](value, self.bound)


def judged(recipe: Recipe, scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return what run.json says of each gate: its value, the rows it was scored on, the verdict.

    Args:
        recipe: has the gates.
        scores: of a run, by when they were taken.
    """
    when = "test" if "test" in scores else "after"
    found = []
    for gate in map(Gate.of, recipe.eval.gate):
        value = scores[when].get(gate.metric)
        found.append(
            {
                "gate": gate.text,
                "metric": gate.metric,
                "asked": f"{gate.sign} {gate.bound:g}",
                "rows": "test rows" if when == "test" else "held-out rows",
                "value": value,
                "passed": gate.passes(value),
            }
        )
    return found


def refuse(recipe: Recipe, task: str, metrics: Sequence[str], prepared: Prepared) -> None:
    """Refuse gates whose scores a run will not have.

    Args:
        recipe: has the gates.
        task: of the run.
        metrics: those that are measured.
        prepared: the rows.

    Raises:
        RecipeError: there is no such metric, the task does not have it, it is not measured, or no
            rows are held out.
    """
    own = of_task(recipe, task)
    for gate in map(Gate.of, recipe.eval.gate):
        what = f"eval.gate: {gate.text}"
        if gate.metric not in own:
            raise unknown_metric(gate.metric, own, f" for `tuner {task}`", "eval.gate")
        if not recipe.eval.enabled:
            raise RecipeError(
                f"{what}, but nothing is scored",
                "eval.enabled: false",
                "set eval.enabled: true, or leave out eval.gate",
            )
        if not prepared.eval and not prepared.test:
            raise RecipeError(
                f"{what}, but there are no held-out rows",
                f"data.eval: {recipe.data.eval}",
                "set data.eval: 0.1, or leave out eval.gate",
            )
        if gate.metric in metrics:
            continue
        fitting = [name for name in metrics if name != "perplexity"]
        fix = f"set eval.metrics: [{', '.join([*metrics, gate.metric])}], or leave out eval.gate"
        if gate.metric == "label_accuracy" and recipe.eval.metrics == ("auto",):
            fix = f"set data.labels, or choose one of {', '.join(fitting)}"
        raise RecipeError(
            f"{what}, but {gate.metric} is not measured", f"eval.metrics: {', '.join(metrics)}", fix
        )
