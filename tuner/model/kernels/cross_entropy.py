"""Cross-entropy over a large vocabulary without copies of the logits.

PyTorch's function keeps the log-probabilities next to the logits and makes two more matrices of
that size in backward. Here the gradient, softmax minus one at the target, is written over the
logits themselves, a few rows at a time, as Liger (Hsu et al. 2024) does it on GPUs.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from tuner.data.tokens.example import IGNORED

# Rows worked on together: their probabilities stay within a processor's cache. On a GPU every
# operation is a kernel launch: as many rows as make this many bytes in float32.
_CHUNK, _GPU_CHUNK = 64, 1 << 28


def cross_entropies(
    logits: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return each target's cross-entropy, (positions,) float32, 0 where ignored.

    Args:
        logits: (positions, vocabulary) of any type, computed with in float32; no longer readable
            after a backward pass.
        targets: (positions,), `IGNORED` where there is no target.
        temperature: divides the logits.
        smoothing: share of the target's probability that all of the vocabulary gets alike.
    """
    apply: Any = _CrossEntropies.apply
    result: torch.Tensor = apply(logits, targets, temperature, smoothing)
    return result


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        smoothing: float,
    ) -> torch.Tensor:
        parts = [_normaliser(_scaled(part, temperature)) for part in logits.split(_rows(logits))]
        normalisers = torch.cat(parts) if parts else logits.new_empty(0, dtype=torch.float32)
        scores = _scaled(logits.gather(1, targets.clamp_min(0)[:, None])[:, 0], temperature)
        if smoothing:
            means = [_scaled(part, temperature).mean(dim=1) for part in logits.split(_rows(logits))]
            scores = (1.0 - smoothing) * scores + smoothing * torch.cat(means or [scores])
        ctx.save_for_backward(logits, targets, normalisers)
        ctx.temperature, ctx.smoothing = temperature, smoothing
        return torch.where(targets != IGNORED, normalisers - scores, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        # Autograd refuses by itself where the logits are needed elsewhere, or a second time.
        logits, targets, normalisers = ctx.saved_tensors
        weights = (targets != IGNORED) * gradients[0]
        for part, chosen, normaliser, weight in zip(
            *(whole.split(_rows(logits)) for whole in (logits, targets, normalisers, weights)),
            strict=True,
        ):
            given = part.float()
            if ctx.temperature != 1.0:
                given, weight = given.div_(ctx.temperature), weight / ctx.temperature
            given.sub_(normaliser[:, None])
            exp_(given).mul_(weight[:, None])
            if ctx.smoothing:
                given.sub_((ctx.smoothing / given.shape[1] * weight)[:, None])
                weight = (1.0 - ctx.smoothing) * weight
            given[torch.arange(len(given), device=given.device), chosen.clamp_min(0)] -= weight
            if given.dtype != part.dtype:
                part.copy_(given)
        return logits, None, None, None


def exp_(values: torch.Tensor) -> torch.Tensor:
    """Compute exp in place, as exp2: PyTorch's exp of float32 uses MKL, which takes three times as
    long on AMD's processors."""
    return values.mul_(math.log2(math.e)).exp2_()


def entropies(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the entropy over the vocabulary at each position, (positions,) float32.

    Args:
        logits: (positions, vocabulary) of any type.
        temperature: divides them.
    """
    known = (_scaled(part, temperature).log_softmax(dim=1) for part in logits.split(_rows(logits)))
    found = [-(part.exp() * part).sum(dim=1) for part in known]
    return torch.cat(found) if found else logits.new_empty(0, dtype=torch.float32)


def _rows(logits: torch.Tensor) -> int:
    """Return how many rows of (positions, vocabulary) are worked on together."""
    return max(_CHUNK, _GPU_CHUNK // (4 * logits.shape[1])) if logits.is_cuda else _CHUNK


def _normaliser(logits: torch.Tensor) -> torch.Tensor:
    """Return the log-sum-exp of (rows, vocabulary) as (rows,) float32."""
    most = logits.amax(dim=1)
    return most + exp_(logits - most[:, None]).sum(dim=1).log_()


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits.float() if temperature == 1.0 else logits.float() / temperature
