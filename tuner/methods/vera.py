"""VeRA (Kopiczko et al. 2023): learned scales between frozen random factors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Count, Share


class VeraOptions(TargetedOptions):
    """Frozen random factors shared by all layers, learned scales between them."""

    name: Literal["vera"] = "vera"
    r: Annotated[Count, Field(description="rank of the shared factors")] = 256
    dropout: Annotated[Share, Field(description="dropout on the input of each adapter")] = 0.0


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.VeraConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        r=setting.options.r,
        vera_dropout=setting.options.dropout,
        # Saved, so that the adapter does not depend on the random generator staying the same.
        save_projection=True,
        fan_in_fan_out=setting.transposed,
    )


METHOD = Method(
    "vera",
    "sft",
    "learned scales between random factors that all layers share",
    VeraOptions,
    config,
    1e-2,
    mergeable=True,
    quantized=QUANTIZED,
)
