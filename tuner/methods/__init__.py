"""METHODS: which parameters are trained. One row a method, one file a family.

A row is data the plan can check before a model is loaded. The family's module holds the options and
the function that makes peft's configuration of them; torch and peft are imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tuner.methods import bottleneck, full, library, lora, prompts
from tuner.methods.options import MethodOptions, Setting

DECODER, ENCODER, SEQ2SEQ = "decoder", "encoder", "encoder-decoder"
EVERY = frozenset({DECODER, ENCODER, SEQ2SEQ})


@dataclass(frozen=True)
class Method:
    """What a method is and what it can do; `tests/test_capabilities.py` probes every cell.

    Attributes:
        name: `method.name` in the recipe.
        verb: the most specific verb that runs it besides the task verbs.
        summary: one line for help and tables.
        options: the keys of the recipe's `method` section.
        config: makes peft's configuration; None where the base's own weights are trained.
        learning_rate: the default rate; see the family's docstring for the evidence.
        mergeable: whether it can be folded into the base weights.
        quantized: the kinds of quantized base that it can be put on.
        gradient_checkpointing: whether activations may be recomputed.
        packing: whether rows packed into one sequence stay isolated.
        families: the kinds of base it is for.
        model_types: the only model types it is for; empty: every one of the families.
        virtual_tokens: whether it learns tokens that stand before every row.
        deep_prompts: whether these are keys and values of every layer.
    """

    name: str
    verb: str
    summary: str
    options: type[MethodOptions]
    config: Callable[[Setting], Any] | None
    learning_rate: float
    mergeable: bool = False
    quantized: frozenset[str] = frozenset()
    gradient_checkpointing: bool = True
    packing: bool = True
    families: frozenset[str] = EVERY
    model_types: frozenset[str] = frozenset()
    virtual_tokens: bool = False
    deep_prompts: bool = False

    @property
    def adapter(self) -> bool:
        """Whether the result is an adapter beside an untouched base."""
        return self.config is not None


_BOTH = frozenset({"nf4", "int8"})
_LORA = Method(
    "lora",
    "lora",
    "low-rank updates of the linear layers",
    lora.LoraOptions,
    lora.config,
    2e-4,
    mergeable=True,
    quantized=_BOTH,
)
_FULL = Method("full", "sft", "all weights", full.FullOptions, None, 2e-5, mergeable=True)
_PREFIX = Method(
    "prefix",
    "prefix",
    "keys and values before every row, in every layer",
    prompts.PrefixOptions,
    prompts.prefix,
    5e-3,
    quantized=_BOTH,
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
            summary="deep prompts: keys and values of every layer, learned directly",
            options=prompts.PtuningV2Options,
        ),
        replace(
            _PROMPT,
            name="ptuning",
            summary="embeddings before every row, written by a small encoder",
            options=prompts.PtuningOptions,
            config=prompts.ptuning,
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
            quantized=_BOTH,
        ),
        *(
            Method(
                name=row.name,
                verb="sft",
                summary=row.summary,
                options=row.options,
                config=row.config,
                learning_rate=row.learning_rate,
                mergeable=row.mergeable,
                quantized=row.quantized,
                gradient_checkpointing=row.gradient_checkpointing,
                packing=row.packing,
                families=row.families,
                model_types=row.model_types,
            )
            for row in library.ROWS
        ),
    )
}
