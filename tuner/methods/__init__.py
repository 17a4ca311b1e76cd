"""METHODS: which parameters are trained. One row a method, one file a family.

A row is data the plan can check before a model is loaded. The family's module holds the options
(light) and `build(model, plan)` (imports torch and peft only when called).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuner.methods import full, lora
from tuner.methods.options import MethodOptions


@dataclass(frozen=True)
class Method:
    """What a method is and what it can do.

    Attributes:
        name: `method.name` in the recipe.
        verb: the most specific verb that runs it besides the task verbs.
        summary: one line for help and tables.
        options: the keys of the recipe's `method` section.
        build: turns a loaded base model into a trainable one.
        learning_rate: the default rate; see the family's docstring for the evidence.
        adapter: whether the result is an adapter beside an untouched base.
        mergeable: whether it can be folded into the base weights.
        quantizable_base: whether the base may be quantized.
        gradient_checkpointing: whether activations may be recomputed.
        packing: whether rows packed into one sequence stay isolated.
    """

    name: str
    verb: str
    summary: str
    options: type[MethodOptions]
    build: Callable[..., Any]
    learning_rate: float
    adapter: bool
    mergeable: bool
    quantizable_base: bool
    gradient_checkpointing: bool
    packing: bool


def _lora_row(name: str, summary: str, options: type[MethodOptions]) -> Method:
    return Method(
        name=name,
        verb="lora",
        summary=summary,
        options=options,
        build=lora.build,
        learning_rate=2e-4,
        adapter=True,
        mergeable=True,
        quantizable_base=True,
        gradient_checkpointing=True,
        packing=True,
    )


def _weights_row(
    name: str, summary: str, options: type[MethodOptions], learning_rate: float
) -> Method:
    return Method(
        name=name,
        verb="sft",
        summary=summary,
        options=options,
        build=full.build,
        learning_rate=learning_rate,
        adapter=False,
        mergeable=True,
        quantizable_base=False,
        gradient_checkpointing=True,
        packing=True,
    )


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        _lora_row("lora", "low-rank updates of the linear layers", lora.LoraOptions),
        _lora_row("rslora", "LoRA scaled by alpha / sqrt(r)", lora.RsloraOptions),
        _lora_row("dora", "LoRA with a trained magnitude per output", lora.DoraOptions),
        _weights_row("full", "all weights", full.FullOptions, 2e-5),
        _weights_row("last_layer", "the final block, norm and head", full.LastLayerOptions, 2e-4),
        _weights_row("staged", "the last layer first, then everything", full.StagedOptions, 2e-4),
    )
}
