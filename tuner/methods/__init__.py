"""METHODS: which parameters are trained. One row a method, one file a family.

A row is data the plan can check before a model is loaded. The family's module holds the options and
the function that makes peft's configuration of them; torch and peft are imported when it is called.
"""

from __future__ import annotations

from dataclasses import replace

from tuner.methods import bottleneck, full, library, lora, prompts
from tuner.methods.method import DECODER, QUANTIZED, Method

__all__ = ["METHODS", "Method"]

_LORA = Method(
    "lora",
    "lora",
    "low-rank updates of the linear layers",
    lora.LoraOptions,
    lora.config,
    2e-4,
    mergeable=True,
    quantized=QUANTIZED,
    rlhf=True,
    new_tokens=True,
)
_FULL = Method(
    "full",
    "sft",
    "all weights",
    full.FullOptions,
    None,
    2e-5,
    mergeable=True,
    new_tokens=True,
)
_PREFIX = Method(
    "prefix",
    "prefix",
    "keys and values before every row, written by a network",
    prompts.PrefixOptions,
    prompts.prefix,
    3e-4,
    quantized=QUANTIZED,
    virtual_tokens=True,
    deep_prompts=True,
)
_PROMPT = replace(
    _PREFIX,
    name="prompt",
    verb="ptuning",
    summary="embeddings before every row",
    options=prompts.PromptOptions,
    config=prompts.prompt,
    learning_rate=2e-2,
    deep_prompts=False,
)

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        _LORA,
        replace(
            _LORA,
            name="rslora",
            summary="LoRA scaled by alpha / sqrt(r)",
            options=lora.RsloraOptions,
        ),
        replace(
            _LORA,
            name="dora",
            summary="LoRA with a trained magnitude per output",
            options=lora.DoraOptions,
            quantized=frozenset({"nf4"}),
        ),
        _FULL,
        replace(
            _FULL,
            name="last_layer",
            summary="the final block, norm and head",
            options=full.LastLayerOptions,
            learning_rate=2e-4,
            families=frozenset({DECODER}),
        ),
        replace(
            _FULL,
            name="staged",
            summary="the last layer first, then everything at a lower rate",
            options=full.StagedOptions,
            learning_rate=2e-4,
            families=frozenset({DECODER}),
        ),
        _PREFIX,
        replace(
            _PREFIX,
            name="ptuning_v2",
            summary="deep prompts without the network, made for task heads",
            options=prompts.PtuningV2Options,
            learning_rate=prompts.DIRECT_RATE,
        ),
        replace(
            _PROMPT,
            name="ptuning",
            summary="embeddings before every row, written by a small encoder",
            options=prompts.PtuningOptions,
            config=prompts.ptuning,
            learning_rate=5e-3,
        ),
        _PROMPT,
        replace(
            _PROMPT,
            name="multitask_prompt",
            summary="one prompt for several data sets, with a low-rank part for each",
            options=prompts.MultitaskOptions,
            config=prompts.multitask,
            families=frozenset({DECODER}),
        ),
        Method(
            "bottleneck",
            "sft",
            "small projections down and up after attention and MLP",
            bottleneck.BottleneckOptions,
            bottleneck.config,
            1e-3,
            quantized=QUANTIZED,
        ),
        *library.ROWS,
    )
}
