"""How a GPU computes outside the Trainer's steps: as in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from tuner.errors import TrainingError, first_line
from tuner.machine import gpu
from tuner.model.weights import DTYPES

if TYPE_CHECKING:
    from tuner.plan.plan import Plan


@contextlib.contextmanager
def as_trained(plan: Plan) -> Iterator[None]:
    """Compute as a training step on a GPU does: half precision by autocast, TF32 if asked for.

    A CPU computes outside its steps without autocast, as the exported model will.
    """
    if plan.device == "cpu":
        yield
        return
    half = plan.dtype != "float32"
    with torch.autocast("cuda", DTYPES[plan.dtype], enabled=half), tf32(plan):
        yield


@contextlib.contextmanager
def deterministic(plan: Plan) -> Iterator[None]:
    """Use only kernels of CUDA that repeat to the bit, if the recipe says so.

    Raises:
        TrainingError: an operation has no such kernel.
    """
    with gpu.deterministic(plan.device == "cuda" and plan.recipe.run.deterministic):
        try:
            yield
        except RuntimeError as error:
            if "does not have a deterministic implementation" not in str(error):
                raise
            raise TrainingError(
                "run.deterministic: true, but this run needs a kernel that is not",
                first_line(error),
                "start again with another --output and run.deterministic: false",
            ) from error


def tf32(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Compute float32 matrix products as the recipe says."""
    return gpu.tf32(plan.device == "cuda" and plan.recipe.model.tf32)
