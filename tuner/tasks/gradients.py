"""Clipping the gradients of a step, and the stop before an update that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import TrainingError
from tuner.record import checkpoint_folder
from tuner.tasks.optimizer import CRITIC

if TYPE_CHECKING:
    from tuner.record.run_folder import RunFolder
    from tuner.tasks.leg import Leg


def clip(leg: Leg, rows: Iterable[Any], loss: float = 0.0) -> float:
    """Clip the gradients, those of a critic separately; return the norm of all together.

    Args:
        leg: the steps; after this the current one cannot be repeated.
        rows: the rows of the update, for the error.
        loss: its loss.

    Raises:
        Overflow: a scaled gradient does not fit into float16.
        TrainingError: the gradients, or the loss, are not finite.
    """
    asked, squares = leg.plan.recipe.train.max_grad_norm, 0.0
    most = math.inf if asked == "none" else asked
    for critic in (False, True):
        weights = [
            weight
            for name, weight in leg.parameters
            if name.startswith(CRITIC) == critic and weight.grad is not None
        ]
        if weights:
            squares += float(torch.nn.utils.clip_grad_norm_(weights, most)) ** 2
    norm = math.sqrt(squares) if math.isfinite(squares) else squares
    refuse_not_finite(leg, rows, "loss", loss)
    if not math.isfinite(norm):
        leg.loss_scale.overflow(leg.step.number + 1, norm)
    refuse_not_finite(leg, rows, "gradient norm", norm)
    leg.step.updating = True
    return norm


def refuse_not_finite(leg: Leg, rows: Iterable[Any], name: str, value: float) -> None:
    """Stop at a loss or gradient norm that is not finite."""
    if math.isfinite(value):
        return
    names = ", ".join([row.row for row in rows][:8])
    raise TrainingError(
        f"the {name} is {value} at step {leg.step.number + 1}",
        f"rows of this step: {names}; no update was made, {last_good(leg.folder)}",
        "lower train.learning_rate, check these rows, or use model.dtype: float32",
    )


def last_good(folder: RunFolder) -> str:
    """Return which checkpoint an error leaves behind, in words."""
    newest, _ = checkpoint_folder.newest(folder.checkpoints, folder.best)
    return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
