"""LLaMA-Adapter (Zhang et al. 2023): gated learned tokens in the top layers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.methods.method import DECODER, QUANTIZED, Method
from tuner.methods.options import MethodOptions, Setting
from tuner.schema.fields import Count


class AdaptionPromptOptions(MethodOptions):
    """Learned tokens that the top layers attend to through a gate that starts at zero."""

    name: Literal["adaption_prompt"] = "adaption_prompt"
    length: Annotated[Count, Field(description="learned tokens per layer")] = 10
    layers: Annotated[
        Count, Field(description="how many layers have them, counted from the top")
    ] = 30


def config(setting: Setting) -> Any:
    """Return peft's configuration."""
    import peft

    present = setting.config.get("num_hidden_layers") or setting.config.get("n_layer") or 1
    return peft.AdaptionPromptConfig(
        task_type=setting.task_type,
        adapter_len=setting.options.length,
        adapter_layers=min(setting.options.layers, int(present)),
    )


METHOD = Method(
    "adaption_prompt",
    "sft",
    "gated learned tokens in the top layers",
    AdaptionPromptOptions,
    config,
    5e-3,
    quantized=QUANTIZED,
    packing=False,
    classes=False,
    families=frozenset({DECODER}),
    model_types=frozenset({"llama", "mistral", "gpt2"}),
)
