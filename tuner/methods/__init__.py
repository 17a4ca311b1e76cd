"""METHODS: which parameters are trained. One row per method, one file per family.

A row is data the plan can check before a model is loaded. Its file holds the options and the
function that builds peft's configuration from them; it imports torch and peft when called.
"""

from __future__ import annotations

from tuner.methods import (
    adalora,
    adaption_prompt,
    boft,
    bottleneck,
    fourierft,
    full,
    ia3,
    layernorm,
    loha,
    lokr,
    lora,
    oft,
    prompts,
    trainable_tokens,
    vera,
)
from tuner.methods.method import Method

__all__ = ["METHODS", "Method"]

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        lora.LORA,
        lora.RSLORA,
        lora.DORA,
        full.FULL,
        full.LAST_LAYER,
        full.STAGED,
        prompts.PREFIX,
        prompts.PTUNING_V2,
        prompts.PTUNING,
        prompts.PROMPT,
        prompts.MULTITASK_PROMPT,
        bottleneck.METHOD,
        ia3.METHOD,
        adalora.METHOD,
        vera.METHOD,
        oft.METHOD,
        boft.METHOD,
        lokr.METHOD,
        loha.METHOD,
        layernorm.METHOD,
        trainable_tokens.METHOD,
        fourierft.METHOD,
        adaption_prompt.METHOD,
    )
}
