"""Quantization-aware training (Jacob et al. 2018) with LoRA: its conditions and its two schemes.

The export is the merged model, quantized weight-only by torchao. So each layer computes with the
fake-quantized sum W + scaling * B A in training: a quantized W with a separate LoRA, as in
torchtune, would leave the trained grid when it is merged. `qat_layers` holds the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# How many inputs of a layer may share a scale in int4; the largest divisor is used.
GROUPS = (128, 64, 32)
METHODS = ("lora", "rslora")
INITS = ("default", "eva")


def group_size(inputs: Mapping[str, int]) -> int | None:
    """Return the largest group that divides the inputs of every layer; None where none does."""
    return next((g for g in GROUPS if all(size % g == 0 for size in inputs.values())), None)


def scheme(kind: str, group: int | None) -> Any:
    """Return torchao's configuration of the quantization for training and export.

    Args:
        kind: int8, symmetric with a scale per output; int4, symmetric with a scale per group.
        group: inputs that share a scale in int4.
    """
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup

    if kind == "int8":
        # By default it changes settings of torch's compiler for the whole process.
        return Int8WeightOnlyConfig(set_inductor_config=False)
    assert group is not None
    return IntxWeightOnlyConfig(weight_dtype=four_bits(), granularity=PerGroup(group))


def four_bits() -> Any:
    """Return torch.int4, which torch's stubs lack."""
    import torch

    return getattr(torch, "int4")  # noqa: B009
