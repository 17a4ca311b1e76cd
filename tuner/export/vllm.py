"""Whether vLLM can load an adapter, by the limits that it documents (vLLM 0.33, "LoRA adapters").

vLLM itself needs a GPU to say so; what it refuses, or leaves out without a word, can be known from
the adapter's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.model.tokenizer import TRAINED

# Values that --max-lora-rank takes.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DEFAULT_RANK = 16


def findings(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What stands against an adapter in vLLM.

    Args:
        config: peft's adapter_config.json.

    Returns:
        What it cannot load, and what must be said to it.
    """
    against, say = [], []
    kind = config.get("peft_type")
    if kind != "LORA":
        return [f"peft_type {kind}: vLLM loads LoRA alone"], []
    if config.get("use_dora"):
        against.append("use_dora: vLLM has no DoRA")
    if config.get("bias", "none") != "none":
        against.append(f"bias {config['bias']}: vLLM takes no trained biases")
    if config.get("modules_to_save"):
        against.append(f"modules_to_save {config['modules_to_save']}: vLLM takes none")
    if config.get("target_parameters"):
        against.append("target_parameters: fused experts have no place in its LoRA layers")
    if config.get("alpha_pattern"):
        against.append("alpha_pattern: vLLM reads one alpha for all modules")
    if config.get(TRAINED):
        against.append(f"{TRAINED}: vLLM has no place for the rows of added tokens")
    ranks = [int(config.get("r", 0)), *map(int, (config.get("rank_pattern") or {}).values())]
    fitting = [size for size in RANKS if size >= max(ranks)]
    if not fitting:
        against.append(f"rank {max(ranks)}: the largest is {RANKS[-1]}")
    elif fitting[0] > DEFAULT_RANK:
        say.append(f"--max-lora-rank {fitting[0]}")
    return against, ["--enable-lora", *say]
