"""Whether the layers of a decoder keep keys and values that a learned prefix can come before."""

from __future__ import annotations

from typing import Any

import torch
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING as _SHAPED_BY_PEFT,
)
from transformers import AutoConfig, DynamicCache
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from tuner.model import layers
from tuner.model.base import Base

# Meta tensors have no values; what a family computes from them may fail in many ways.
_UNTRACEABLE = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)


def why_no_prefix(base: Base) -> str:
    """Return why a decoder cannot have a prefix of keys and values; empty if it can.

    Args:
        base: a decoder.
    """
    config = _text_config(base)
    for number, layer in enumerate(DynamicCache(config=config).layers):
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            return f"its layer {number} keeps a state, not only keys and values"
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return f"its layer {number} keeps no keys and values of its own"
    if base.config.get("model_type") in layers.PLAIN_FAMILIES:
        return ""
    return _shapes_differ(base, config)


def window(base: Base) -> int | None:
    """Return the fewest tokens that a layer of a decoder attends to; None: all of them."""
    seen = [
        layer.sliding_window
        for layer in DynamicCache(config=_text_config(base)).layers
        if isinstance(layer, DynamicSlidingWindowLayer)
    ]
    return min(seen, default=None)


def _text_config(base: Base) -> Any:
    found: Any = AutoConfig.from_pretrained(
        base.folder, local_files_only=True, trust_remote_code=base.trusted
    )
    return found.get_text_config(decoder=True)


def _shapes_differ(base: Base, config: Any) -> str:
    """Return how the keys and values of two tokens differ from a prefix as peft shapes it."""
    model = layers.empty(base, "language", dtype=torch.bfloat16)
    try:
        with torch.no_grad(), torch.device("meta"):
            given = torch.zeros(1, 2, dtype=torch.long)
            cache = getattr(model(input_ids=given, use_cache=True), "past_key_values", None)
            if cache is None:
                return "its layers keep no keys and values"
            kept = [(tuple(layer.keys.shape), tuple(layer.values.shape)) for layer in cache.layers]
    except _UNTRACEABLE:
        # Latent attention (DeepSeek) is the one such family that is known to differ.
        latent = getattr(config, "kv_lora_rank", None)
        return "its keys and values differ in size (latent attention)" if latent else ""
    if len(kept) != config.num_hidden_layers:
        return f"only {len(kept)} of its {config.num_hidden_layers} layers keep keys and values"
    shapes = {shape for pair in kept for shape in pair}
    if len(shapes) > 1:
        return "its layers keep keys and values of different sizes"
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    found, known = shapes.pop()[1], config.model_type in _SHAPED_BY_PEFT
    return "" if known or found == heads else f"its layers keep {found} heads, peft makes {heads}"
