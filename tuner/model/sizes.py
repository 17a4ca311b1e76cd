"""The sizes of a base's layers, read from its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Widths of a decoder's layers.

    Attributes:
        hidden: of the residual stream.
        inner: of the MLP.
        queries: heads x head size.
        keys: the same of keys, and of values.
        layers: how many.
        heads: of queries, in all layers together.
        gated: whether the MLP multiplies two matrices of the inner size.
        family: config.json's model_type.
    """

    hidden: int
    inner: int
    queries: int
    keys: int
    layers: int
    heads: int
    gated: bool
    family: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sizes:
        """Read the sizes by the names that configs use."""
        family, config = str(config.get("model_type")), of_text(config)
        hidden = int(config.get("hidden_size") or config.get("n_embd") or 0)
        inner = config.get("intermediate_size") or config.get("n_inner") or 4 * hidden
        heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
        groups = int(config.get("num_key_value_heads") or heads)
        layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
        size = int(config.get("head_dim") or hidden // heads)
        act = str(config.get("hidden_act") or config.get("activation_function") or "")
        return cls(
            hidden=hidden,
            # Some families have another size in every layer.
            inner=int(max(inner) if isinstance(inner, list) else inner),
            queries=heads * size,
            keys=groups * size,
            layers=layers,
            heads=layers * heads,
            gated="silu" in act or "swish" in act,
            family=family,
        )


def of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that is about text; of most bases it is the whole."""
    part = config.get("text_config")
    return {**config, **part} if isinstance(part, Mapping) else config
