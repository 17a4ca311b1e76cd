"""LoRA on a linear layer as one autograd function: no temporaries, nothing saved twice.

peft computes x W^T, x A^T, that times B^T, its scaling and the sum as five operations, each with a
result as large as the layer's. Here the update is added to the layer's result in place, and so is
its gradient; only x and x A^T are kept from the forward pass. The module is peft's own with another
forward pass for training, registered as a custom module of peft; unsupported cases, and every pass
without gradients, are left to peft.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tuner.model.kernels.replace import as_in_training

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def register(config: Any) -> None:
    """Make peft build fused modules for plain linear layers with `config`, a LoraConfig."""
    config._register_custom_module({torch.nn.Linear: _dispatch})


def _dispatch(target: torch.nn.Module, adapter_name: str, config: Any, **kwargs: Any) -> Any:
    """Return the fused module, or None for layers left to peft: quantized ones, experts."""
    weight: Any = getattr(target, "weight", None)
    if type(target) is not torch.nn.Linear or kwargs.get("parameter_name") is not None:
        return None
    # A weight in several tensors (torchao's) multiplies by code of its own.
    if is_traceable_wrapper_subclass(weight) or weight.dtype not in _DTYPES:
        return None
    return FusedLinear(target, adapter_name, config=config, **kwargs)


class FusedLinear(Linear):
    """peft's LoRA module for a linear layer, fused where gradients are wanted."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map x (..., inputs) to (..., outputs)."""
        operands = None if args or kwargs else self.operands(x)
        if operands is None:
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        apply: Any = _FusedLora.apply
        fused: torch.Tensor = apply(*operands, self.scale)
        return fused

    @property
    def scale(self) -> float:
        """What the active adapter's update is multiplied by."""
        return float(self.scaling[self.active_adapters[0]])

    def operands(self, x: torch.Tensor) -> tuple[Any, ...] | None:
        """Return x, weight, bias, A and B in the compute type; None: not supported here."""
        active = self.active_adapters
        if not as_in_training(x) or self.disable_adapters or self.merged or len(active) != 1:
            return None
        name, base = active[0], self.base_layer
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return None
        if not isinstance(self.lora_dropout[name], torch.nn.Identity):
            return None
        # DeepSpeed gathers a sharded weight when its module is called, which does not happen here.
        if base.weight.requires_grad or hasattr(base.weight, "ds_id"):
            return None
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            x, a, b = x.to(dtype), a.to(dtype), b.to(dtype)
        operands = (x, base.weight, base.bias, a, b)
        same = all(part is None or part.dtype == x.dtype for part in operands)
        return operands if same and x.dtype in _DTYPES else None


def shaped_as(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return a function's result (tokens, outputs) as (..., outputs), for x (..., inputs).

    Autograd refuses in-place work on a result that is a view, and Gemma-3n scales its layers'
    results in place; `_unsafe_view` shares the memory and is none.
    """
    shape = [*x.shape[:-1], result.shape[-1]]
    shaped: torch.Tensor = torch.ops.aten._unsafe_view(result, shape)
    return shaped


def add_update(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the layer's result for rows (tokens, inputs), and rows A^T (tokens, rank)."""
    low = rows @ a.T
    return functional.linear(rows, weight, bias).addmm_(low, b.T, alpha=scale), low


def low_rank_gradients(
    dy: torch.Tensor,
    rows: torch.Tensor | None,
    low: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    wanted_b: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
    """Return the gradients of A (None without rows), of B if wanted, and of rows A^T."""
    dlow = _scaled_product(dy, b, scale)
    da = None if rows is None else dlow.T @ rows
    db = _scaled_product(dy.T, low, scale) if wanted_b else None
    return da, db, dlow


def _scaled_product(x: torch.Tensor, y: torch.Tensor, scale: float) -> torch.Tensor:
    """Return scale * x @ y, on a GPU in one kernel."""
    if x.is_cuda:
        return torch.addmm(x.new_empty(()), x, y, beta=0, alpha=scale)
    return (x @ y).mul_(scale)


class _FusedLora(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T with gradients for x, A and B; Hu et al. 2021, eq. 3."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Take x (..., inputs), weight (outputs, inputs), a (rank, inputs), b (outputs, rank)."""
        with torch.autocast(x.device.type, enabled=False):
            result, low = add_update(x.reshape(-1, x.shape[-1]), weight, bias, a, b, scale)
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return shaped_as(result, x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, a and b if needed."""
        x, low, weight, a, b = ctx.saved_tensors
        wanted_x, _, _, wanted_a, wanted_b, _ = ctx.needs_input_grad
        with torch.autocast(x.device.type, enabled=False):
            dy = gradients[0].reshape(-1, gradients[0].shape[-1])
            rows = x.reshape(-1, x.shape[-1]) if wanted_a else None
            da, db, dlow = low_rank_gradients(dy, rows, low, b, ctx.scale, wanted_b)
            dx = (dy @ weight).addmm_(dlow, a).view(x.shape) if wanted_x else None
        return dx, None, None, da, db, None
