"""LN-tuning (Zhao et al. 2023): the normalisation layers alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Words


class LayernormOptions(TargetedOptions):
    """The normalisation layers alone."""

    name: Literal["layernorm"] = "layernorm"
    target_modules: Annotated[
        Words, Field(description="the layers to train; all-norms, names or a regular expression")
    ] = ("all-norms",)


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.LNTuningConfig(task_type=setting.task_type, target_modules=list(setting.targets))


METHOD = Method(
    "layernorm",
    "sft",
    "the normalisation layers",
    LayernormOptions,
    config,
    1e-3,
    mergeable=True,
    quantized=QUANTIZED,
    classes=False,
)
