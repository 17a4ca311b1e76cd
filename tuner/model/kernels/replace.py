"""Replacing modules of a model by fused ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def as_in_training(x: torch.Tensor) -> bool:
    """Return whether to compute with `x` as in training, also without gradients.

    On a GPU autocast is then on (see `tasks.precision`): a loss before training equals the first
    step's, and a policy's probabilities those that its update starts from.
    """
    return torch.is_grad_enabled() or (x.is_cuda and torch.is_autocast_enabled("cuda"))


def replace(model: Any, fits: Callable[[Any], bool], fused: Callable[[Any], Any]) -> int:
    """Replace every module that fits by `fused(module)`; return their number."""
    count = 0
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if fits(module):
                setattr(parent, name, fused(module))
                count += 1
    return count
