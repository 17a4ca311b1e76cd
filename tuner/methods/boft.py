"""BOFT (Liu et al. 2023): rotations made of butterfly factors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Count


class BoftOptions(TargetedOptions):
    """Rotations made of butterfly factors."""

    name: Literal["boft"] = "boft"
    block_size: Annotated[Count, Field(description="size of the rotated blocks")] = 4
    factors: Annotated[Count, Field(description="number of butterfly factors")] = 1


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.BOFTConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        boft_block_size=setting.options.block_size,
        boft_n_butterfly_factor=setting.options.factors,
        fan_in_fan_out=setting.transposed,
    )


METHOD = Method(
    "boft",
    "sft",
    "rotations of butterfly factors",
    BoftOptions,
    config,
    1e-3,
    mergeable=True,
    quantized=QUANTIZED,
    conv1d=False,
)
