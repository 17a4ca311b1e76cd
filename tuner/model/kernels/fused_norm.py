"""RMSNorm whose weight is frozen as one autograd function, bit for bit transformers' forward pass.

Autograd differentiates transformers' six operations one by one and keeps float32 copies of their
matrices whatever the type. Here the input is kept in its type, and the gradient is computed from
the formula (Zhang and Sennrich 2019) in one pass. A GPU takes torch's own kernel, which rounds
after the weight instead of before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from tuner.model.kernels.replace import as_in_training, replace

# transformers' modules that compute weight * x / sqrt(mean(x^2) + eps) in float32, nothing else.
_KNOWN = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"})
_DTYPES = (torch.float32, torch.bfloat16)


def put(model: torch.nn.Module) -> int:
    """Replace the norms whose weight is not trained; return their number."""
    return replace(model, _fits, FusedNorm)


def _fits(module: Any) -> bool:
    return type(module).__name__ in _KNOWN and not module.weight.requires_grad


class FusedNorm(torch.nn.Module):
    """A norm with the weight, and its name, of the one it replaces."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon
        self._plain = type(norm).forward
        self.train(norm.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (..., hidden) to the same shape."""
        if x.is_cuda and as_in_training(x) and self.weight.dtype == x.dtype:
            # Autocast would compute it in float32, result included.
            with torch.autocast("cuda", enabled=False):
                return functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)
        wanted = torch.is_grad_enabled() and x.requires_grad and not self.weight.requires_grad
        if not wanted or x.dtype not in _DTYPES or self.weight.dtype != x.dtype:
            result: torch.Tensor = self._plain(self, x)
            return result
        apply: Any = _RmsNorm.apply
        fused: torch.Tensor = apply(x, self.weight, self.variance_epsilon)
        return fused


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Take x (..., hidden), weight (hidden,)."""
        exact = x.float()
        factor = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, factor)
        return weight * (exact * factor).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, weight, factor = ctx.saved_tensors
        exact, dnormed = x.float(), (gradients[0] * weight).float()
        # A change along x also changes the factor.
        along = (dnormed * exact).sum(-1, keepdim=True)
        along = along.mul_(factor.pow(3)).div_(-x.shape[-1])
        return dnormed.mul_(factor).addcmul_(exact, along).to(x.dtype), None, None
