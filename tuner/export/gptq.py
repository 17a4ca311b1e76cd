"""GPTQ (Frantar et al. 2022): weights rounded to a grid so that a layer's outputs move least.

Column by column, the error of rounding is passed on to the columns not rounded yet, by
the inverse of the inputs' second moments on calibration rows. Groups of inputs share a scale, which
is set when the first of them is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

LOWEST, HIGHEST = -8, 7
# Between the largest weight and the grid's ends, as in torchao's symmetric scheme.
HALF_RANGE = 7.5
DAMPING = 0.01
# Second moments that are collected in one pass over the rows, in bytes.
BUDGET = 2 << 30


def rounded(weight: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to the nearest point of the grid.

    Args:
        weight: (outputs, inputs).
        size: inputs that share a scale.

    Returns:
        int8 points (outputs, inputs) and scales (outputs, inputs / size).
    """
    groups = weight.float().unflatten(1, (-1, size))
    scale = _scale(groups)
    # torchao multiplies by the reciprocal; dividing would put halves on the other side.
    points = (groups * (1.0 / scale)[..., None]).round().clamp(LOWEST, HIGHEST)
    return points.flatten(1).to(torch.int8), scale


def _scale(groups: torch.Tensor) -> torch.Tensor:
    """Return the scales of groups (..., inputs)."""
    return groups.abs().amax(-1).clamp(min=1e-8) / HALF_RANGE


@torch.no_grad()
def quantize(
    weight: torch.Tensor, moments: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round one layer by GPTQ.

    Args:
        weight: (outputs, inputs).
        moments: (inputs, inputs), the sum of x x^T over calibration tokens.
        size: inputs that share a scale.

    Returns:
        The same as `rounded`.
    """
    rest = weight.double().clone()
    inputs = rest.shape[1]
    square = moments.double()
    diagonal = square.diagonal()
    dead = diagonal <= 0
    diagonal[dead] = 1.0
    rest[:, dead] = 0.0
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(square)), upper=True
    )
    points = torch.empty_like(rest, dtype=torch.int8)
    scales = torch.empty(len(rest), inputs // size, dtype=torch.float64, device=rest.device)
    for first in range(0, inputs, size):
        group = slice(first, first + size)
        scale = _scale(rest[:, group])
        scales[:, first // size] = scale
        errors = torch.empty_like(rest[:, group])
        block, inner = rest[:, group], inverse[group, group]
        for place in range(size):
            column = block[:, place]
            point = (column / scale).round().clamp(LOWEST, HIGHEST)
            points[:, first + place] = point.to(torch.int8)
            error = (column - point * scale) / inner[place, place]
            block[:, place:] -= torch.outer(error, inner[place, place:])
            errors[:, place] = error
        rest[:, first + size :] -= errors @ inverse[group, first + size :]
    return points, scales.float()


def batches(layers: Sequence[tuple[str, nn.Linear]]) -> Iterator[list[tuple[str, nn.Linear]]]:
    """Yield layers whose second moments fit into `BUDGET` together, in order."""
    batch: list[tuple[str, nn.Linear]] = []
    used = 0
    for name, layer in layers:
        size = 4 * layer.in_features**2
        if batch and used + size > BUDGET:
            yield batch
            batch, used = [], 0
        batch.append((name, layer))
        used += size
    if batch:
        yield batch


@torch.no_grad()
def second_moments(
    model: Any, layers: Sequence[tuple[str, nn.Linear]], rows: Callable[[Any], None]
) -> dict[str, torch.Tensor]:
    """Return the sum of x x^T of every layer's inputs, over what `rows` runs through the model."""
    found = {
        name: torch.zeros(layer.in_features, layer.in_features, device=layer.weight.device)
        for name, layer in layers
    }
    with ExitStack() as stack:
        for name, layer in layers:
            hook = layer.register_forward_pre_hook(partial(_add, found[name]))
            stack.callback(hook.remove)
        rows(model)
    return found


def _add(moments: torch.Tensor, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    tokens = inputs[0].flatten(0, -2).float()
    moments.addmm_(tokens.T, tokens)
