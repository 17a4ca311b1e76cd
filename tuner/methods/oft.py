"""OFT (Qiu et al. 2023): rotations of a layer's inputs, block by block."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Count

# Layers of latent attention (DeepSeek-V2 and -V3, MiniCPM3 ...) whose input has a fourth axis: peft
# takes such an input of any layer for an image.
FOLDED = ("kv_b_proj",)


class OftOptions(TargetedOptions):
    """Rotations of a layer's inputs, block by block."""

    name: Literal["oft"] = "oft"
    block_size: Annotated[Count, Field(description="size of the rotated blocks")] = 32


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.OFTConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        r=0,
        oft_block_size=setting.options.block_size,
        fan_in_fan_out=setting.transposed,
    )


METHOD = Method(
    "oft",
    "sft",
    "rotations of a layer's inputs, block by block",
    OftOptions,
    config,
    5e-4,
    mergeable=True,
    quantized=QUANTIZED,
    conv1d=False,
)
