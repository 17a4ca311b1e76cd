"""A float32 model computing in float64, for proofs that rounding would blur.

A model larger than a shard of a saved one is never twice as large at once: its layers are in
float64 one by one, each while it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tuner.export import merged


@contextmanager
def in_double(model: Any, wanted: bool = True, room: int | None = None) -> Iterator[None]:
    """Have a float32 model compute in float64, where `wanted`; back in float32 it is what it was.

    Args:
        model: not quantized, in evaluation mode.
        wanted: false leaves it alone.
        room: bytes that it may grow by; None: those of a shard.
    """
    if not wanted:
        yield
        return
    experts = getattr(model.config, "_experts_implementation", None)
    # The grouped matrix product of mixtures of experts has no float64.
    if experts:
        model.set_experts_implementation("eager")
    size = sum(tensor.nbytes for tensor in model.parameters())
    layers = _layers(model) if size > (room or merged.SHARD) else []
    inside = {module for layer in layers for module in layer.modules()}
    outside = [module for module in model.modules() if module not in inside]
    hooks = [layer.register_forward_pre_hook(_to_double) for layer in layers]
    hooks += [layer.register_forward_hook(_to_float, always_call=True) for layer in layers]
    try:
        _cast(outside, torch.float64)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        _cast(outside, torch.float32)
        if experts:
            model.set_experts_implementation(experts)


def _layers(model: Any) -> list[torch.nn.Module]:
    """The blocks that transformers says are never split, the outermost of them."""
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    kinds = set(getattr(network, "_no_split_modules", None) or ())
    found: list[torch.nn.Module] = []
    below: set[torch.nn.Module] = set()
    for module in network.modules():
        if type(module).__name__ in kinds and module not in below:
            found.append(module)
            below.update(module.modules())
    return found


def _to_double(layer: torch.nn.Module, _inputs: Any) -> None:
    layer.double()


def _to_float(layer: torch.nn.Module, _inputs: Any, _outputs: Any) -> None:
    layer.float()


def _cast(modules: list[Any], dtype: torch.dtype) -> None:
    """Cast what these modules hold themselves; what is tied is cast once and stays tied."""
    for module in modules:
        for tensor in module.parameters(recurse=False):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                module._buffers[name] = buffer.to(dtype)
