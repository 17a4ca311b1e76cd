"""The gated MLP of Llama's family before a fused LoRA layer, recomputing what is cheap.

transformers computes down(silu(gate) * up), and autograd keeps all four matrices of the inner size.
Here gate and up are kept; their product, cheap compared with the matrix products, is recomputed in
backward, as Unsloth does it on GPUs. The arithmetic is that of transformers' module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from tuner.model.kernels.fused_lora import FusedLinear, add_update, low_rank_gradients, shaped_as
from tuner.model.kernels.replace import replace

# transformers' modules that compute down_proj(silu(gate_proj(x)) * up_proj(x)) and nothing else.
_KNOWN = frozenset({"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"})
# Rows worked on together: their matrices stay within a processor's cache. On a GPU every operation
# is a kernel launch, and only the temporary matrices of very long rows are bounded.
_CHUNK, _GPU_CHUNK = 128, 8192


def put(model: torch.nn.Module) -> int:
    """Replace the MLPs whose last layer is a fused LoRA layer; return their number."""
    return replace(model, _fits, FusedMlp)


def _fits(module: Any) -> bool:
    if type(module).__name__ not in _KNOWN:
        return False
    silu = type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")
    return silu and isinstance(module.down_proj, FusedLinear)


class FusedMlp(torch.nn.Module):
    """An MLP with the layers, and the names, of the one it replaces."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn = mlp.act_fn
        self.train(mlp.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (..., hidden) to the same shape."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        down = self.down_proj
        # After merging it is a plain layer.
        operands = down.operands(gate) if isinstance(down, FusedLinear) else None
        if operands is None or gate.dtype != up.dtype or operands[0].dtype != gate.dtype:
            result: torch.Tensor = down(self.act_fn(gate) * up)
            return result
        apply: Any = _SwigluLora.apply
        fused: torch.Tensor = apply(gate, up, *operands[1:], down.scale)
        return fused


class _SwigluLora(torch.autograd.Function):
    """y = h W^T + bias + s (h A^T) B^T of h = silu(gate) * up (Shazeer 2020, SwiGLU)."""

    @staticmethod
    def forward(  # noqa: PLR0913  # autograd passes each tensor by itself
        ctx: Any,
        gate: torch.Tensor,
        up: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Take gate and up (..., inner), weight (outputs, inner), a (rank, inner), b."""
        with torch.autocast(gate.device.type, enabled=False):
            product = _product(gate, up)
            result, low = add_update(product, weight, bias, a, b, scale)
        ctx.save_for_backward(gate, up, low, weight, a, b)
        ctx.scale = scale
        return shaped_as(result, gate)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up, low, weight, a, b = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        with torch.autocast(gate.device.type, enabled=False):
            dy = gradients[0].reshape(-1, gradients[0].shape[-1])
            _, db, dlow = low_rank_gradients(dy, None, low, b, ctx.scale, wanted[5])
            dgate = dup = None
            if wanted[0] or wanted[1]:
                dproduct = (dy @ weight).addmm_(dlow, a)
                dgate, dup, da = _gradients(gate, up, dproduct, dlow)
            else:
                da = dlow.T @ _product(gate, up)
        return dgate, dup, None, None, da, db, None


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _rows(gate: torch.Tensor) -> int:
    return _GPU_CHUNK if gate.is_cuda else _CHUNK


def _product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up as (rows, inner)."""
    product = torch.empty_like(_flat(gate))
    for into, left, right in zip(
        *(part.split(_rows(gate)) for part in (product, _flat(gate), _flat(up))), strict=True
    ):
        torch.mul(functional.silu(left), right, out=into)
    return product


def _gradients(
    gate: torch.Tensor, up: torch.Tensor, dproduct: torch.Tensor, dlow: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of gate, of up (written over the product's) and of A."""
    dgate = torch.empty_like(_flat(gate))
    da = torch.zeros(dlow.shape[-1], gate.shape[-1], device=gate.device)
    whole = (dgate, _flat(gate), _flat(up), dproduct, dlow)
    for into, left, right, given, low in zip(
        *(part.split(_rows(gate)) for part in whole), strict=True
    ):
        opened = functional.silu(left)
        da += low.T @ (opened * right)
        torch.ops.aten.silu_backward.grad_input(given * right, left, grad_input=into)
        given.mul_(opened)
    return dgate.view(gate.shape), dproduct.view(up.shape), da.to(dlow.dtype)
