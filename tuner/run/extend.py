"""More steps for a run: a finished one goes on, with the schedule of its new length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.console import formatting
from tuner.errors import RecipeError
from tuner.model.folded import EARLIER
from tuner.recipe.formats import FORMATS
from tuner.record import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from tuner.plan.plan import Plan
    from tuner.record.checkpoint import Checkpoint

STEPS = "train.max_steps"
# What more steps differ in.
LONGER = ("train.epochs", STEPS)


@dataclass(frozen=True)
class Extension:
    """A run that gets more steps than it was begun with.

    Attributes:
        step: the last one of its checkpoint.
        before: steps that it had.
        now: steps that it has.
        epochs: those before, and now.
        left_out: rows that no step sees: its last step was shorter than the others.
    """

    step: int
    before: int
    now: int
    epochs: tuple[float, float]
    left_out: int

    def record(self) -> dict[str, Any]:
        """Return it as the record has it."""
        return {
            "from_step": self.step,
            "steps": [self.before, self.now],
            "epochs": list(self.epochs),
            "left_out_rows": self.left_out,
        }

    def __str__(self) -> str:
        text = (
            f"the run had {formatting.counted(self.before, 'step')} and now has {self.now:,}: its "
            f"learning rate follows the schedule of {self.now:,} steps from step {self.step + 1} on"
        )
        if self.left_out:
            rows = formatting.counted(self.left_out, "row")
            text += f"; the last step so far was short of {rows}, which are left out"
        return text


def found(plan: Plan, saved: Mapping[str, Any], state: Mapping[str, Any]) -> Extension | None:
    """Return what makes a run longer than its checkpoint says; None: nothing does.

    Args:
        plan: of the run that resumes.
        saved: the identity in the checkpoint, under the keys of this version.
        state: of the checkpoint; `step` is among it.

    Raises:
        RecipeError: training has stopped early, so that there would be no further step.
    """
    before = saved.get(STEPS)
    several = len(plan.stages) > 1 or not plan.method.whole_at_any_step
    if not isinstance(before, int) or plan.steps <= before or several:
        return None
    patience = plan.evaluations.patience if plan.evaluations else None
    if patience is not None and (state.get("evaluation") or {}).get("waited", 0) >= patience:
        raise RecipeError(
            "more epochs for a run that has stopped early",
            f"eval.stop ended it after step {state['step']}, and would end it there again",
            "resume with --set eval.stop=null too",
        )
    epochs = (float(saved["train.epochs"]), float(plan.recipe.train.epochs))
    return Extension(state["step"], before, plan.steps, epochs, _left_out(plan, before, epochs[0]))


def _left_out(plan: Plan, before: int, epochs: float) -> int:
    """Return the rows that the last step was short of."""
    copies = plan.rlhf.copies if plan.draws else 1
    whole = before * plan.recipe.train.batch_size
    seen = math.ceil(round(epochs * len(plan.prepared.train) * copies, 6))
    return max(0, whole - seen) // copies


def of(plan: Plan, resumed: Checkpoint | None) -> Extension | None:
    """Return what makes a run longer than the checkpoint that it continues from."""
    if resumed is None:
        return None
    return found(plan, resumed.state["identity"], {**resumed.state, "step": resumed.step})


def put_aside(folder: Path, step: int) -> list[str]:
    """Move the artefacts of the steps so far into a folder of their own; return their names.

    Args:
        folder: of the run.
        step: the last of these steps.
    """
    aside = folder / f"{EARLIER}{step}"
    names = [name for name in FORMATS if manifest.is_sealed(folder / name)]
    for name in names:
        aside.mkdir(exist_ok=True)
        (folder / name).rename(aside / name)
    return names
