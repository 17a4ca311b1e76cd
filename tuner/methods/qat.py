"""Quantization-aware training (Jacob et al. 2018) with LoRA: what it asks for, and its two schemes.

What is exported is the merged model, quantized weight-only by torchao. So each layer computes with
the fake-quantized sum W + scaling * B A in training: a quantized W with a LoRA beside it, as in
torchtune, would leave the trained grid when it is merged. `qat_peft` holds the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# How many inputs of a layer may share a scale in int4; the largest that divides is taken.
GROUPS = (128, 64, 32)
METHODS = ("lora", "rslora")
INITS = ("default", "eva")


def group_size(inputs: Mapping[str, int]) -> int | None:
    """The largest group that divides the inputs of every layer; None where none does."""
    return next((g for g in GROUPS if all(size % g == 0 for size in inputs.values())), None)


def scheme(kind: str, group: int | None) -> Any:
    """torchao's configuration of the quantization that is trained for and exported.

    Args:
        kind: int8, symmetric with a scale per output; int4, symmetric with a scale per group.
        group: inputs that share a scale in int4.
    """
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    if kind == "int8":
        # Left to itself it changes settings of torch's compiler for the whole process.
        return Int8WeightOnlyConfig(set_inductor_config=False)
    assert group is not None
    return IntxWeightOnlyConfig(weight_dtype=four_bits(), granularity=PerGroup(group))


def four_bits() -> Any:
    """torch.int4, which torch's stubs lack."""
    import torch

    return getattr(torch, "int4")  # noqa: B009
