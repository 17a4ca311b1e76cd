"""LoHa (Hyeon-Woo et al. 2021): updates that are Hadamard products of two low-rank ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Count, Positive


class LohaOptions(TargetedOptions):
    """Updates that are Hadamard products of two low-rank ones."""

    name: Literal["loha"] = "loha"
    r: Annotated[Count, Field(description="rank of both products")] = 8
    alpha: Annotated[Positive, Field(description="scale of the update, divided by r")] = 16.0


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.LoHaConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        r=setting.options.r,
        alpha=setting.options.alpha,
    )


METHOD = Method(
    "loha",
    "sft",
    "updates that are Hadamard products",
    LohaOptions,
    config,
    1e-3,
    mergeable=True,
    quantized=frozenset({"int8"}),
    conv1d=False,
    matrices=True,
)
