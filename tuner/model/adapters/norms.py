"""Norm and effective rank of an adapter's updates, from its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, first_line

# Name prefixes of an adapter's own tensors, by peft's type, for types that `tuner` writes. Others
# are looked up in peft, whose import takes seconds.
_PREFIXES = {
    "LORA": "lora_",
    "ADALORA": "lora_",
    "VERA": "vera_",
    "IA3": "ia3_",
    "OFT": "oft_",
    "BOFT": "boft_",
    "LOKR": "lokr_",
    "LOHA": "hada_",
    "LN_TUNING": "ln_tuning_",
    "FOURIERFT": "fourierft_",
    "ADAPTION_PROMPT": "adaption_",
    "TRAINABLE_TOKENS": "trainable_tokens_",
    "BOTTLENECK": "bottleneck_",
    "PREFIX_TUNING": "prefix_tuning_",
    "PROMPT_TUNING": "prompt_tuning_",
    "P_TUNING": "p_tuning_",
    "MULTITASK_PROMPT_TUNING": "multitask_prompt_tuning_",
}
# Token embeddings that any method may train in addition to its own tensors.
_ALWAYS = ("token_adapter", "trainable_tokens_")
# What methods of virtual tokens store, (virtual tokens, size).
PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")
PROMPT = "prompt_embeddings"
# The layer name of tensors that belong to no layer.
ELSEWHERE = "elsewhere"
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([ABE])(?:\.weight)?")


@dataclass(frozen=True)
class Tensor:
    """A stored tensor: the module it changes ("" for none), its size and Frobenius norm."""

    name: str
    module: str
    shape: tuple[int, ...]
    parameters: int
    dtype: str
    norm: float
    finite: bool
    zero: bool


@dataclass(frozen=True)
class Pair:
    """A low-rank update scaling * B @ A.

    Attributes:
        name: of the pair among the tensors.
        module: what it updates.
        rank: inner size of the product.
        scaling: the factor before the product.
        norm: Frobenius norm of the update; NaN where a factor is not finite.
        effective_rank: exp of the entropy of the normalised singular values; 0 for a zero update.
            For several experts the mean over them.
        experts: how many updates are stored in the pair.
    """

    name: str
    module: str
    rank: int
    scaling: float
    norm: float
    effective_rank: float
    experts: int


def prefix_of(peft_type: str) -> str | None:
    """Return the name prefix of an adapter's own tensors; None if peft does not know the type."""
    if peft_type in _PREFIXES:
        return _PREFIXES[peft_type]
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    known = {str(each.value): name for each, name in PEFT_TYPE_TO_PREFIX_MAPPING.items()}
    return known.get(peft_type)


def measure(weights: Path, config: Mapping[str, Any]) -> tuple[list[Tensor], list[Pair]]:
    """Measure every tensor of an adapter and every low-rank update in it.

    Args:
        weights: the safetensors file; its tensors are read one by one.
        config: the adapter's configuration, of a type that `prefix_of` knows.

    Raises:
        IntegrityError: the file is damaged, or the factors of an update do not fit together.
    """
    from safetensors import SafetensorError, safe_open

    prefixes = (str(prefix_of(config["peft_type"])), *_ALWAYS)
    try:
        with safe_open(weights, "pt") as file:
            names = sorted(file.keys())
            tensors = [_tensor(name, file.get_tensor(name), prefixes) for name in names]
            _check(config["peft_type"], {tensor.name: tensor for tensor in tensors})
            modules = {tensor.name: tensor.module for tensor in tensors}
            pairs = []
            for key, names_of in _factors(names).items():
                if {"A", "B"} <= names_of.keys():
                    factors = {name: file.get_tensor(full) for name, full in names_of.items()}
                    pairs.append(_pair(key, modules[names_of["B"]], config, factors))
    except (OSError, SafetensorError, ValueError) as error:
        raise IntegrityError(
            "the adapter's weights are damaged",
            f"{weights}: {first_line(error)}",
            "restore the file from a copy, or export the adapter again",
        ) from error
    return tensors, pairs


def _check(peft_type: str, tensors: Mapping[str, Tensor]) -> None:
    if not tensors:
        raise ValueError("it has no tensors")
    if peft_type in PROMPTS and PROMPT not in tensors:
        raise ValueError(f"it has no {PROMPT}")
    if peft_type in PROMPTS and len(tensors[PROMPT].shape) != 2:
        raise ValueError(f"{PROMPT} has the shape {tensors[PROMPT].shape}")


def _tensor(name: str, values: Any, prefixes: Sequence[str]) -> Tensor:
    import torch

    dtype = str(values.dtype).removeprefix("torch.")
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    parts = name.removeprefix("base_model.model.").split(".")
    own = [place for place, part in enumerate(parts) if part.startswith(tuple(prefixes))]
    # A module trained whole is stored under its own name.
    module = parts[: own[0]] if own else parts[:-1]
    return Tensor(
        name,
        "" if module == ["base_model"] else ".".join(module).removesuffix(".base_layer"),
        tuple(values.shape),
        values.numel(),
        dtype,
        float(torch.linalg.vector_norm(values, dtype=torch.float64)),
        bool(torch.isfinite(values).all()),
        values.numel() > 0 and not bool(values.any()),
    )


def factor_names(names: Iterable[str]) -> set[str]:
    """Return which of an adapter's tensor names are factors of a complete pair."""
    pairs = _factors(names).values()
    return {name for pair in pairs if {"A", "B"} <= pair.keys() for name in pair.values()}


def single_factors(names: Iterable[str]) -> list[str]:
    """Return the names of factors whose counterpart is missing."""
    pairs = _factors(names).values()
    return [name for pair in pairs if not {"A", "B"} <= pair.keys() for name in pair.values()]


def prefix_layers(weights: Path, num_layers: int) -> list[dict[str, Any]]:
    """Return one row per layer of a prefix, stored as (virtual tokens, layers x 2 x size)."""
    import torch
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        values = file.get_tensor(PROMPT).double()
    count = num_layers if num_layers and values.shape[1] % num_layers == 0 else 1
    return [
        {
            "layer": f"layers.{number}" if count > 1 or num_layers == 1 else ELSEWHERE,
            "modules": 0,
            "parameters": part.numel(),
            "update_norm": None,
            "effective_rank": None,
            "other_norm": float(torch.linalg.vector_norm(part)),
        }
        for number, part in enumerate(values.chunk(count, dim=1))
    ]


def _factors(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the names of the factors A, B and (AdaLoRA) E of each low-rank update."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _FACTOR.fullmatch(name):
            found.setdefault(match[1], {})[match[3]] = name
    return found


def _pair(key: str, module: str, config: Mapping[str, Any], factors: Mapping[str, Any]) -> Pair:
    import torch

    # Convolutions have further dimensions, which belong to the inputs.
    shapes = [tuple(factors[name].shape) for name in ("A", "B")]
    if min(map(len, shapes)) < 2 or shapes[0][0] != shapes[1][1]:
        raise ValueError(f"{key}: A {shapes[0]} and B {shapes[1]} do not fit together")
    first, second = (factors[name].double().flatten(1) for name in ("A", "B"))
    if "E" in factors:
        first = first * factors["E"].double()
    experts = 1
    parents = [str(name).rpartition(".")[0] for name in config.get("target_parameters") or ()]
    own = int(config.get("r") or 0)
    if own and len(first) % own == 0 and any(part and module.endswith(part) for part in parents):
        # peft stores the factors of all experts as one tensor: A expert by expert, B rank by rank.
        experts = max(len(first) // own, 1)
    rank, scaling = _scaling(module, config, first.shape[0] // experts)
    name = key.removeprefix("base_model.model.")
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        return Pair(name, module, rank, scaling, math.nan, math.nan, experts)
    values = product_singular_values(
        first.reshape(experts, rank, first.shape[1]),
        second.reshape(len(second), rank, experts).permute(2, 0, 1),
    )
    norm = abs(scaling) * float(values.norm())
    mean = float(effective_rank(values).mean())
    return Pair(name, module, rank, scaling, norm, mean, experts)


def _scaling(module: str, config: Mapping[str, Any], rank: int) -> tuple[int, float]:
    """Return rank and scaling of a module's update, as peft computes them."""
    alpha = float(config.get("lora_alpha") or 0)
    if config["peft_type"] == "ADALORA":
        # Divided by the rank at the start, however many ranks are left.
        start = float(config.get("init_r") or rank)
        return rank, (alpha if alpha > 0 else start) / (start + 1e-5)
    if patterns := config.get("alpha_pattern"):
        from peft.utils.other import get_pattern_key

        alpha = float(patterns.get(get_pattern_key(patterns.keys(), module), alpha))
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else max(rank, 1))


def effective_rank(singular_values: Any) -> Any:
    """Return exp of the entropy of the normalised singular values (Roy & Vetterli 2007).

    Args:
        singular_values: a float tensor (..., rank).

    Returns:
        A tensor (...), between 1 and rank; 0 where all singular values are zero.
    """
    import torch

    total = singular_values.sum(-1, keepdim=True)
    shares = singular_values / total.clamp(min=torch.finfo(singular_values.dtype).tiny)
    entropy = torch.special.entr(shares).sum(-1)
    return torch.where(total[..., 0] > 0, entropy.exp(), torch.zeros_like(entropy))


def product_singular_values(first: Any, second: Any) -> Any:
    """Return the singular values (..., rank) of second @ first, from QR factors, not the product.

    Args:
        first: A, a tensor (..., rank, inputs).
        second: B, a tensor (..., outputs, rank).
    """
    import torch

    inner = torch.linalg.qr(first.double().mT, mode="r").R
    outer = torch.linalg.qr(second.double(), mode="r").R
    return torch.linalg.svdvals(outer @ inner.mT)
