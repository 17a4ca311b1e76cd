"""LoKr (Yeh et al. 2023): updates that are Kronecker products."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Count, Positive


class LokrOptions(TargetedOptions):
    """Updates that are Kronecker products."""

    name: Literal["lokr"] = "lokr"
    r: Annotated[Count, Field(description="rank of the larger factor")] = 8
    alpha: Annotated[Positive, Field(description="scale of the update, divided by r")] = 16.0


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.LoKrConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        r=setting.options.r,
        alpha=setting.options.alpha,
    )


METHOD = Method(
    "lokr",
    "sft",
    "updates that are Kronecker products",
    LokrOptions,
    config,
    1e-3,
    mergeable=True,
    quantized=frozenset({"int8"}),
    conv1d=False,
    matrices=True,
)
