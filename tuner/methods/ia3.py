"""(IA)3 (Liu et al. 2022): learned scales on keys, values and the MLP's inner activations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import QUANTIZED, Method
from tuner.methods.options import Setting, TargetedOptions
from tuner.schema.fields import Words

# In the MLP's down projection the input is scaled, in the other modules the output.
INNER = ("down_proj", "mlp.c_proj", "fc2", "wo", "output.dense", "w2")
OUTER = ("k_proj", "v_proj", "c_attn", "attention.self.key", "attention.self.value", "k", "v")


class Ia3Options(TargetedOptions):
    """Learned scales on keys, values and the MLP's inner activations."""

    name: Literal["ia3"] = "ia3"
    target_modules: Annotated[
        Words, Field(description="modules whose output is scaled; auto: keys, values and MLP")
    ] = ("auto",)


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    # In the MLP's down projection it is the input that is scaled.
    inner = [name for name in setting.targets if name.endswith(INNER)]
    return peft.IA3Config(
        task_type=setting.task_type,
        target_modules=list(setting.targets),
        feedforward_modules=inner,
        fan_in_fan_out=setting.transposed,
    )


METHOD = Method(
    "ia3",
    "sft",
    "learned scales of keys, values and MLP",
    Ia3Options,
    config,
    5e-3,
    mergeable=True,
    quantized=QUANTIZED,
)
