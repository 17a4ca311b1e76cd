"""Layers that compute with the quantized sum of base and adapter, through torchao's fake quantizer.

A peft LoRA layer, registered by `LoraConfig._register_custom_module`, so that names, files,
checkpoints and the merge are peft's own; layers without an adapter are quantized as they are.
Gradients pass through the rounding unchanged (straight-through, Bengio et al. 2013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.nn import functional
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from tuner.methods.qat import four_bits


def quantizer(kind: str, group: int | None, dtype: torch.dtype) -> Any:
    """Return torchao's fake quantizer on the grid of `qat.scheme`, bit for bit.

    Args:
        kind: int8 or int4.
        group: inputs that share a scale in int4.
        dtype: of the weights. torchao keeps int4 scales in it, int8 scales in float32.
    """
    from torchao.quantization import PerAxis, PerGroup
    from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

    if kind == "int8":
        eps = torch.finfo(torch.float32).eps
        return IntxFakeQuantizer(IntxFakeQuantizeConfig(torch.int8, PerAxis(0), eps=eps))
    assert group is not None
    return IntxFakeQuantizer(
        IntxFakeQuantizeConfig(four_bits(), PerGroup(group), scale_precision=dtype)
    )


class _StraightThrough(torch.autograd.Function):
    """Quantized forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, quantize: Callable[[Any], torch.Tensor]) -> Any:
        return quantize(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class Rounding:
    """Quantizes a layer's weight for its computation.

    Attributes:
        on: whether the layer computes with the quantized weight.
    """

    def __init__(self, quantize: Callable[[Any], torch.Tensor]) -> None:
        self.on = True
        self._quantize = quantize
        self._held: tuple[tuple[int, ...], torch.Tensor] | None = None

    def __call__(
        self, weight: Callable[[], torch.Tensor], parts: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Return the quantized weight, cached while no gradient is needed and no part changes.

        Args:
            weight: computes the weight, (outputs, inputs).
            parts: the parameters it is made of.
        """
        if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
            self._held = None
            passed: Any = _StraightThrough
            quantized: torch.Tensor = passed.apply(weight(), self._quantize)
            return quantized
        versions = tuple(part._version for part in parts)
        if self._held is None or self._held[0] != versions:
            with torch.no_grad():
                self._held = versions, self._quantize(weight())
        return self._held[1]

    def forget(self) -> None:
        """Free the cached weight."""
        self._held = None


class QuantizedLora(LoraLinear):
    """A LoRA layer that computes with the quantized sum W + scaling * B A."""

    rounding: Rounding | None = None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        if self.rounding is None or not self.rounding.on or self.merged:
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        base: Any = self.base_layer
        names = [] if self.disable_adapters else self.active_adapters
        factors: list[Any] = [
            layers[name].weight for layers in (self.lora_A, self.lora_B) for name in names
        ]

        def summed() -> torch.Tensor:
            # As peft's `merge(safe_merge=True)` sums, so that the export rounds the same numbers.
            weight: torch.Tensor = base.weight
            for name in names:
                weight = weight + self.get_delta_weight(name).to(weight.dtype)
            return weight

        with torch.autocast(x.device.type, enabled=False):
            weight = self.rounding(summed, (base.weight, *factors))
        return functional.linear(x, weight, base.bias)


class QuantizedLinear(torch.nn.Linear):
    """A linear layer without an adapter that computes with its quantized weight."""

    rounding: Rounding | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        if self.rounding is None or not self.rounding.on:
            return super().forward(input)
        weight = self.rounding(lambda: self.weight, (self.weight,))
        return functional.linear(input, weight, self.bias)


def quantized_layers(base: Any) -> list[str]:
    """Return the layers that transformers has torchao quantize: no head, nothing tied to one."""
    left = HfQuantizer.get_modules_to_not_convert(base, None, base._keep_in_fp32_modules)
    return [
        name
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and should_convert_module(f"{name}.weight", left)
    ]


def register(config: Any) -> None:
    """Have peft build `QuantizedLora` layers from this LoraConfig."""
    config._register_custom_module({torch.nn.Linear: QuantizedLora})


def start(model: Any, names: list[str], kind: str, group: int | None) -> None:
    """Begin to compute with quantized weights.

    Args:
        model: a PeftModel whose config was registered.
        names: the base's layers that the export quantizes, from `quantized_layers`.
        kind: int8 or int4.
        group: inputs that share a scale in int4.
    """
    base = model.get_base_model()
    for name in names:
        module: Any = base.get_submodule(name)
        if type(module) is torch.nn.Linear:
            plain, module = module, QuantizedLinear(0, 0, device="meta")
            module.__dict__.update(plain.__dict__)
            base.set_submodule(name, module)
        weight: Any = getattr(module, "base_layer", module).weight
        module.rounding = Rounding(quantizer(kind, group, weight.dtype))


def switch(model: Any, on: bool) -> None:
    """Compute with quantized weights, or as the plain LoRA that the adapter is."""
    for module in model.modules():
        if isinstance(module, QuantizedLora | QuantizedLinear) and module.rounding is not None:
            module.rounding.on = on
            module.rounding.forget()


@contextmanager
def plain(model: Any) -> Iterator[None]:
    """Compute as the plain LoRA that the adapter is, while the context lasts."""
    switch(model, on=False)
    try:
        yield
    finally:
        switch(model, on=True)
