"""FourierFT (Gao et al. 2024): updates given by a few learned Fourier coefficients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Count, Positive


class FourierftOptions(TargetedOptions):
    """Updates given by a few learned Fourier coefficients."""

    name: Literal["fourierft"] = "fourierft"
    coefficients: Annotated[Count, Field(description="learned coefficients per module")] = 1000
    scale: Annotated[Positive, Field(description="scale of the update")] = 150.0


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    return peft.FourierFTConfig(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        n_frequency=setting.options.coefficients,
        scaling=setting.options.scale,
        # At zero, so that a new adapter changes nothing.
        init_weights=True,
        fan_in_fan_out=setting.transposed,
    )


METHOD = Method(
    "fourierft",
    "sft",
    "learned Fourier coefficients of the update",
    FourierftOptions,
    config,
    1e-2,
    mergeable=True,
    quantized=QUANTIZED,
)
