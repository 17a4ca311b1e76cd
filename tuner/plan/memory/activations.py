"""What a forward pass keeps for backward, in numbers per token, from config and module names.

Counted for Llama's family (Llama, Mistral, Qwen 2 and 3) as its layers, `attention`, `fused_lora`,
`fused_mlp` and `fused_norm` compute; tests compare it with what autograd saves. For other families
and methods it is an approximation by the same sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.methods.lora import LoraOptions, rank
from tuner.methods.targets import layer_of
from tuner.model.sizes import Sizes

if TYPE_CHECKING:
    from tuner.methods.method import Method
    from tuner.recipe.schema import Recipe

# Modules that read the same matrix, which is then kept once.
_READERS = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp", "up_proj": "mlp"}

# Families whose MLP `fused_mlp` and whose norms `fused_norm` can replace.
_FUSED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


@dataclass(frozen=True)
class KeptActivations:
    """Numbers that a micro-batch keeps.

    Attributes:
        token: of each token that is computed, all layers together.
        exact: the same for numbers that are float32 in any type.
        place: of each token as attention sees it: rows that share their first tokens each count
            them.
        attended: instead of `place` with `row_attention` on a CPU, of each token that is computed.
        boundary: what recomputation keeps of a token, all layers together.
        layers: layers that a gradient passes through.
        passing: of a token while one layer is computed backward.
        low: ranks of all LoRA modules together; 0: there are none.
        virtual: tokens before every row.
        computed: whether these go through the layers, or are only keys and values of each.
        masked: whether attention keeps a mask of each row in each layer.
    """

    token: float
    exact: float
    place: float
    attended: float
    boundary: float
    layers: int
    passing: float
    low: int = 0
    virtual: int = 0
    computed: bool = False
    masked: bool = False


def kept(
    recipe: Recipe,
    method: Method,
    config: Mapping[str, Any],
    linears: Mapping[str, tuple[int, int]],
    targets: Sequence[str],
) -> KeptActivations:
    """Return what a method keeps on a base.

    Args:
        recipe: has the method's options and the quantization of the base.
        method: its row of METHODS.
        config: of the base.
        linears: its linear layers as name -> (inputs, outputs).
        targets: names of those that the method changes; ignored where the base itself is trained.
    """
    sizes, options = Sizes.of(config), recipe.method
    whole = not method.adapter
    changed = list(linears) if whole else [name for name in targets if name in linears]
    numbers = [number for name in changed if (number := layer_of(name)) is not None]
    # No gradient goes below the first layer with something to train.
    layers = sizes.layers - min(numbers, default=0) if changed else sizes.layers
    fused = _fused(recipe)
    lean = fused and sizes.family in _FUSED_FAMILIES and any("down_proj" in n for n in changed)
    readers = dict[str, int]()
    for name in changed:
        parent, _, last = name.rpartition(".")
        if not (lean and last == "down_proj"):
            readers[f"{parent}.{_READERS.get(last, last)}"] = linears[name][0]
    low = 0
    if isinstance(options, LoraOptions) and not whole:
        low = sum(rank(options, name) for name in changed)
    inner = (2 if lean else 3 if sizes.gated else 4) * sizes.inner
    # The norms' weights are trained, too: they keep what they multiply. So does the last one, and
    # the head what it reads.
    norms = (2 * layers + 2) * sizes.hidden if whole else 0
    # What the norms read: frozen ones keep it as it is, others as float32.
    read_by_norms = (2 * layers + 1) * sizes.hidden
    as_it_is = not whole and sizes.family in _FUSED_FAMILIES
    virtual = int(getattr(options, "num_virtual_tokens", 0))
    attention = 2 * sizes.queries + 2 * sizes.keys
    # The next layer reads the same matrix.
    read = sizes.queries * sum(name.endswith("o_proj") for name in readers)
    passing = sizes.queries + 3 * sizes.inner + 2 * sizes.hidden
    return KeptActivations(
        token=layers * inner + norms + sum(readers.values()) + low + read_by_norms * as_it_is,
        exact=read_by_norms * (not as_it_is),
        place=layers * attention,
        attended=layers * attention - read,
        boundary=layers * sizes.hidden,
        layers=layers,
        passing=passing,
        low=low,
        virtual=virtual,
        computed=bool(virtual) and not method.deep_prompts,
        masked=bool(virtual) and method.deep_prompts,
    )


def scores(heads: int, seen: Any, rows: Any, width: float) -> Any:
    """Return the bytes of the attention scores that a backward pass needs, of each micro-batch.

    Args:
        heads: of all layers together, where attention is eager: its probabilities are kept as
            float32 and as they are multiplied, (rows, heads, longest, longest).
        seen: tokens of padded rows.
        rows: how many.
        width: bytes of a number.
    """
    return heads * seen * (seen / np.maximum(rows, 1)) * (4 + width)


def _fused(recipe: Recipe) -> bool:
    """Return whether LoRA modules are those of `fused_lora`."""
    options = recipe.method
    plain = isinstance(options, LoraOptions) and options.name in ("lora", "rslora")
    exact = recipe.model.quantize == "none" and recipe.train.qat == "none"
    return plain and exact and not getattr(options, "dropout", 0.0)
