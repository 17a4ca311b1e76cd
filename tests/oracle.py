"""An independent reference in plain torch: no trl, no peft, no Trainer.

Loss: cross-entropy summed over the supervised tokens of a step, divided by their number over the
whole step. LoRA: W + s * B @ A. Update: AdamW as Loshchilov & Hutter 2019 write it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def step_loss(model: torch.nn.Module, rows: Sequence[Any]) -> torch.Tensor:
    """Loss of one optimizer step over `rows`, each run alone without any padding."""
    total = torch.zeros(())
    count = 0
    for row in rows:
        ids = torch.tensor([row.input_ids])
        logits = model(input_ids=ids, use_cache=False).logits[0]
        for place in range(1, len(row.input_ids)):
            if row.supervised[place]:
                scores = logits[place - 1].float()
                total = total - (scores[row.input_ids[place]] - torch.logsumexp(scores, 0))
                count += 1
    return total / count


def mean_loss(model: torch.nn.Module, rows: Sequence[Any]) -> float:
    """Token-weighted mean loss of a set."""
    with torch.no_grad():
        return float(step_loss(model, rows))


class LoraLinear(torch.nn.Module):
    """x W' + s * B(A(x)), for a torch Linear or a GPT-2 Conv1D."""

    def __init__(self, base: torch.nn.Module, a: torch.Tensor, b: torch.Tensor, s: float) -> None:
        super().__init__()
        self.base = base
        self.a = torch.nn.Parameter(a.clone())
        self.b = torch.nn.Parameter(b.clone())
        self.s = s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.s * (x @ self.a.T @ self.b.T)


class DoraLinear(LoraLinear):
    """The same with every output's weights scaled to a trained norm (DoRA, for a torch Linear).

    The norm that is divided by counts as a constant (section 4.3 of the paper).
    """

    def __init__(self, base: torch.nn.Module, a: torch.Tensor, b: torch.Tensor, s: float) -> None:
        super().__init__(base, a, b, s)
        self.m = torch.nn.Parameter((base.weight + s * b @ a).norm(dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.base.weight + self.s * self.b @ self.a
        return x @ (weight * (self.m / weight.norm(dim=1).detach())[:, None]).T


def put_lora(
    model: torch.nn.Module,
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    s: float,
    kind: type[LoraLinear] = LoraLinear,
) -> dict[str, LoraLinear]:
    """Replace the named linear layers by LoRA layers, in place; all else is frozen."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers = {}
    for name, (a, b) in factors.items():
        parent, _, child = name.rpartition(".")
        layer = kind(model.get_submodule(name), a, b, s)
        setattr(model.get_submodule(parent), child, layer)
        layers[name] = layer
    return layers


def clip(parameters: Sequence[torch.nn.Parameter], limit: float) -> float:
    """Scale all gradients so that their joint norm is at most `limit`; the norm before."""
    norm = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in parameters))
    if norm > limit:
        for parameter in parameters:
            parameter.grad *= limit / (norm + 1e-6)
    return norm


class AdamW:
    """AdamW with torch's defaults: betas (0.9, 0.999), eps 1e-8, bias correction."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at learning rate `rate`."""
        self.steps += 1
        for p, m, v in zip(self.parameters, self.first, self.second, strict=True):
            if self.decay and p.ndim > 1:
                p *= 1 - rate * self.decay
            m.mul_(0.9).add_(p.grad, alpha=0.1)
            v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
            corrected = m / (1 - 0.9**self.steps)
            scale = (v / (1 - 0.999**self.steps)).sqrt() + 1e-8
            p -= rate * corrected / scale


def linear_rate(peak: float, step: int, steps: int, warmup: int) -> float:
    """Linear warmup to `peak`, then linear decay to 0 at `steps`; `step` counts from 0."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (steps - step) / (steps - warmup)


def dora_weight(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: float, magnitude: torch.Tensor
) -> torch.Tensor:
    """DoRA (Liu et al. 2024, eq. 5): the updated matrix (outputs, inputs), each output's row
    brought to the length `magnitude`."""
    updated = weight + s * b @ a
    return magnitude[:, None] * updated / updated.pow(2).sum(dim=1).sqrt()[:, None]


def set_weight(layer: torch.nn.Module, weight: torch.Tensor) -> None:
    """Give a torch Linear or a GPT-2 Conv1D a matrix (outputs, inputs)."""
    layer.weight.data = weight if isinstance(layer, torch.nn.Linear) else weight.T.contiguous()


def matrix(layer: torch.nn.Module) -> torch.Tensor:
    """The matrix (outputs, inputs) of a torch Linear or a GPT-2 Conv1D."""
    return layer.weight.data if isinstance(layer, torch.nn.Linear) else layer.weight.data.T
