"""Layers that peft takes for the fused weights of experts, by the names that they have.

Where transformers fuses the experts of a family, peft reads `gate_proj` and the like as the names
that the experts had before. Dense layers and shared experts of these families have them, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any


def taken(config: Mapping[str, Any], targets: Iterable[str]) -> list[str]:
    """Return the targets of a LoRA in whose place peft adapts the fused experts, if there are any.

    Args:
        config: the base's config.json.
        targets: full names of its layers.
    """
    # peft takes seconds to import: it is only asked about bases that have experts.
    if "expert" not in json.dumps(config, default=str):
        return []
    from peft.utils import transformers_weight_conversion

    # Not for others to use, but nothing else says what it will do.
    conversion: Any = transformers_weight_conversion
    family = conversion._MODEL_TO_CONVERSION_PATTERN.get(str(config.get("model_type")))
    names = conversion._MOE_TARGET_MODULE_MAPPING.get(family or "", {})
    if not conversion._MOE_FUSED_TARGETS.get(family or ""):
        return []
    return [name for name in targets if name.rpartition(".")[2] in names]
