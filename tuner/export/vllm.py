"""Check if vLLM can load an adapter, by its documented limits (vLLM 0.33, "LoRA adapters").

vLLM itself needs a GPU to try it; what it refuses or silently ignores can be read from the
adapter's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.model.tokenizer import TRAINED

# Values that --max-lora-rank takes.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DEFAULT_RANK = 16


def findings(config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return why vLLM cannot load an adapter, and the options it needs.

    Args:
        config: peft's adapter_config.json.

    Returns:
        What it cannot load, and the options it must be given.
    """
    against, say = [], []
    kind = config.get("peft_type")
    if kind != "LORA":
        return [f"peft_type {kind}: vLLM loads only LoRA"], []
    if config.get("use_dora"):
        against.append("use_dora: vLLM does not support DoRA")
    if config.get("bias", "none") != "none":
        against.append(f"bias {config['bias']}: vLLM does not load trained biases")
    if config.get("modules_to_save"):
        against.append(f"modules_to_save {config['modules_to_save']}: vLLM does not load them")
    if config.get("target_parameters"):
        against.append("target_parameters: vLLM does not load adapters of fused experts")
    if config.get("alpha_pattern"):
        against.append("alpha_pattern: vLLM reads one alpha for all modules")
    if config.get(TRAINED):
        against.append(f"{TRAINED}: vLLM does not load the rows of added tokens")
    ranks = [int(config.get("r", 0)), *map(int, (config.get("rank_pattern") or {}).values())]
    fitting = [size for size in RANKS if size >= max(ranks)]
    if not fitting:
        against.append(f"rank {max(ranks)}: vLLM's largest is {RANKS[-1]}")
    elif fitting[0] > DEFAULT_RANK:
        say.append(f"--max-lora-rank {fitting[0]}")
    return against, ["--enable-lora", *say]
