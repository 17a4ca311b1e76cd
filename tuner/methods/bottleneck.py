"""Adapter tuning: small projections down and up after attention and MLP, with a residual.

Houlsby et al. 2019 put one after each of the two sublayers, Pfeiffer et al. 2021 only after the
MLP. peft has no such method; `tuner.methods.bottleneck_layers` registers it there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Count, Share, Words

ATTENTION_OUTPUTS = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "attn.c_proj",
    "attention.output.dense",
    "SelfAttention.o",
    "self_attn.dense",
)
MLP_OUTPUTS = (
    "mlp.down_proj",
    "mlp.c_proj",
    "layer.output.dense",
    "DenseReluDense.wo",
    "mlp.fc2",
    "fc2",
)


class BottleneckOptions(TargetedOptions):
    """Options of adapter tuning."""

    name: Literal["bottleneck"] = "bottleneck"
    size: Annotated[Count, Field(description="width of the bottleneck")] = 32
    placement: Annotated[
        Literal["both", "mlp"],
        Field(description="after attention and MLP (Houlsby), or after the MLP alone (Pfeiffer)"),
    ] = "both"
    activation: Annotated[
        Literal["gelu", "relu", "silu"], Field(description="activation between the projections")
    ] = "gelu"
    dropout: Annotated[Share, Field(description="dropout within the bottleneck")] = 0.0
    target_modules: Annotated[
        Words, Field(description="modules to put a bottleneck after; auto: by placement")
    ] = ("auto",)


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    from tuner.methods.bottleneck_layers import BottleneckConfig

    options: BottleneckOptions = setting.options
    return BottleneckConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        size=options.size,
        activation=options.activation,
        dropout=options.dropout,
    )


METHOD = Method(
    "bottleneck",
    "sft",
    "small projections down and up after attention and MLP",
    BottleneckOptions,
    config,
    1e-3,
    quantized=QUANTIZED,
)
