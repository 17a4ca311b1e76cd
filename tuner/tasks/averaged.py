"""schedule_free (Defazio et al. 2024): training moves some weights, and keeps their average.

Its optimizer computes one from the other in place, with rounding. So the weights in training are
kept next to the average while that is scored or sealed: an evaluation or a checkpoint changes no
bit of the run, and a resumed run continues from the same weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

# The weights in training, in the state of the optimizer while the model has the average.
_KEPT = "training"


def averages(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether what is kept of a run are averages of the weights that are trained."""
    return "train_mode" in optimizer.param_groups[0]


@contextlib.contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Give the model its averaged weights; afterwards it has those in training, bit for bit.

    Any other optimizer's model keeps its weights.
    """
    if not averages(optimizer):
        yield
        return
    for parameter in _moved(optimizer):
        optimizer.state[parameter][_KEPT] = parameter.detach().clone()
    end(optimizer)
    try:
        yield
    finally:
        go_on(optimizer)


@torch.no_grad()
def go_on(optimizer: torch.optim.Optimizer) -> None:
    """Give the model the weights in training again, which the optimizer's state has."""
    if not averages(optimizer):
        return
    for parameter in _moved(optimizer):
        kept = optimizer.state[parameter].pop(_KEPT, None)
        if kept is not None:
            parameter.copy_(kept)
    for group in optimizer.param_groups:
        group["train_mode"] = True


def end(optimizer: torch.optim.Optimizer) -> None:
    """Give the model the averaged weights for good."""
    if averages(optimizer):
        own: Any = optimizer
        own.eval()


def _moved(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Return the parameters that an update has moved so far."""
    every = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return [parameter for parameter in every if "z" in optimizer.state.get(parameter, {})]
