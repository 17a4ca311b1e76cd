"""Cross-entropy over a large vocabulary without copies of the logits.

PyTorch's function keeps the log-probabilities beside the logits and makes two more matrices of that
size on the way back. Here the gradient, softmax minus one at the target, is written over the logits
themselves, a few rows at a time, as Liger (Hsu et al. 2024) does it on GPUs.
"""

from __future__ import annotations

from typing import Any

import torch

from tuner.data.pack import IGNORED

# Rows worked on together: their probabilities stay within a processor's cache.
_CHUNK = 64


def summed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum over all targets but the ignored ones.

    Args:
        logits: (positions, vocabulary) of any type, computed with in float32; no longer readable
            after a backward pass.
        targets: (positions,), `IGNORED` where there is none.
    """
    apply: Any = _SummedCrossEntropy.apply
    result: torch.Tensor = apply(logits, targets)
    return result


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        parts = [part.float().logsumexp(dim=1) for part in logits.split(_CHUNK)]
        normalisers = torch.cat(parts) if parts else logits.new_empty(0, dtype=torch.float32)
        counted = targets != IGNORED
        scores = logits.gather(1, targets.clamp_min(0)[:, None])[:, 0].float()
        ctx.save_for_backward(logits, targets, normalisers)
        return torch.where(counted, normalisers - scores, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Autograd refuses by itself where the logits are needed elsewhere, or a second time.
        logits, targets, normalisers = ctx.saved_tensors
        weights = (targets != IGNORED) * gradients[0]
        for part, chosen, normaliser, weight in zip(
            *(whole.split(_CHUNK) for whole in (logits, targets, normalisers, weights)), strict=True
        ):
            given = part.float().sub_(normaliser[:, None]).exp_().mul_(weight[:, None])
            given[torch.arange(len(given), device=given.device), chosen.clamp_min(0)] -= weight
            if given.dtype != part.dtype:
                part.copy_(given)
        return logits, None
