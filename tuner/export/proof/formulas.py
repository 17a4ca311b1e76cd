"""The result that merging an adapter must give, by the formula of its method, in float64.

Written from the papers and peft's file formats, apart from the code that merges. Here are LoRA (Hu
et al. 2021) with rsLoRA, DoRA and fused experts, trained tokens, and modules that are saved whole;
`updates` and `rotations` have the other methods.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tuner.export.proof import rotations, updates
from tuner.export.proof.saved import Exact, Formulas, Replaced, Saved, U, add, lora_scale
from tuner.methods.options import CONFIG, WEIGHTS

_TOKENS = ("token_adapter.trainable_tokens_delta", "trainable_tokens_delta")


def read(folder: Path, network: Any) -> Formulas | None:
    """Return the formula of every parameter that a saved adapter changes, by its name.

    Args:
        folder: peft's files.
        network: the skeleton of the base.

    Returns:
        None if the method has no formula here.

    Raises:
        SystemExit: a tensor of the adapter belongs to nothing, or is missing.
    """
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    make = _METHODS.get(str(config.get("peft_type")))
    if make is None:
        return None
    saved = Saved(folder / WEIGHTS, config, network)
    formulas = make(saved)
    if formulas is None:
        return None
    formulas |= _tokens(saved) | _whole(saved)
    if left := saved.unclaimed():
        raise SystemExit(
            f"tensors of the adapter that change nothing: {len(left)}: {', '.join(left[:4])}"
        )
    return formulas


def _lora(saved: Saved) -> Formulas | None:
    config = saved.config
    if config.get("lora_bias") or config.get("bias", "none") != "none":
        return None
    formulas: Formulas = {}
    for module in saved.modules("lora_embedding_A"):
        saved.claim(module, "lora_embedding_A", "lora_embedding_B")
        formulas[f"{module}.weight"] = partial(_embedding, saved, module)
    experts = _experts(saved)
    for module in saved.modules("lora_A.weight"):
        saved.claim(module, "lora_A.weight", "lora_B.weight")
        if module in experts:
            name, count = experts[module]
            formulas[name] = partial(_expert, saved, module, name, count)
        elif config.get("use_dora"):
            saved.claim(module, "lora_magnitude_vector")
            formulas[f"{module}.weight"] = partial(_dora, saved, module)
        else:
            formulas[f"{module}.weight"] = partial(_plain, saved, module)
    return formulas


def _scale(saved: Saved, module: str, rank: int) -> float:
    """Return what the product of the factors is multiplied by."""
    wanted = saved.pattern("rank_pattern", module, "r")
    if rank != wanted:
        raise SystemExit(f"{module} has rank {rank}, the adapter's config says {wanted}")
    return lora_scale(saved.config, module)


def _update(saved: Saved, module: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return s B A, the size of its terms, and the roundings of each."""
    first, second = saved.get(module, "lora_A.weight"), saved.get(module, "lora_B.weight")
    scale = _scale(saved, module, len(first))
    return scale * second @ first, abs(scale) * second.abs() @ first.abs(), len(first) + 2


def _plain(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Return W + s B A."""
    return add(base, flipped, *_update(saved, module))


def _embedding(saved: Saved, module: str, base: torch.Tensor, _flipped: bool) -> Exact:
    """Return W + s (B A)^T."""
    first = saved.get(module, "lora_embedding_A")
    second = saved.get(module, "lora_embedding_B")
    scale = _scale(saved, module, len(first))
    size = abs(scale) * (second.abs() @ first.abs()).T
    return add(base, False, scale * (second @ first).T, size, len(first) + 2)


def _dora(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Return m (W + s B A) / |W + s B A|, the norms by output."""
    update, size, depth = _update(saved, module)
    whole = (base.T if flipped else base) + update
    off = U * ((depth + 1) * size + whole.abs())
    norm = whole.norm(dim=1, keepdim=True)
    factor = saved.get(module, "lora_magnitude_vector").reshape(-1, 1) / norm
    # The norm's own error: that of its entries, and of summing n squares, which grows with the
    # root of n when roundings are independent (Higham & Mary 2019, here at four deviations).
    turned = (whole.abs() * off).sum(1, keepdim=True) / norm**2
    turned = turned + U * (4 + 4 * math.sqrt(whole.shape[1]))
    value = factor * whole
    slack = factor.abs() * off + value.abs() * (turned + 3 * U)
    return Exact(value.T, slack.T) if flipped else Exact(value, slack)


def _experts(saved: Saved) -> dict[str, tuple[str, int]]:
    """Return, by the module of peft's factors, the fused parameter they change and its experts.

    The factors for several parameters of one module are nested, those of the last one outermost.
    """
    targets = saved.config.get("target_parameters") or []
    found: dict[str, tuple[str, int]] = {}
    for module, part in saved.network.named_modules() if targets else ():
        own = [
            (f"{module}.{name}", parameter)
            for name, parameter in part.named_parameters(recurse=False)
            if any(f".{module}.{name}".endswith("." + target) for target in targets)
        ]
        for depth, (name, parameter) in enumerate(reversed(own)):
            count = parameter.shape[0] if parameter.ndim == 3 else 1
            found[module + ".base_layer" * depth] = (name, count)
    return found


def _expert(
    saved: Saved, module: str, name: str, count: int, base: torch.Tensor, _flipped: bool
) -> Exact:
    """Return W + s B A for each expert separately."""
    first, second = saved.get(module, "lora_A.weight"), saved.get(module, "lora_B.weight")
    rank = len(first) // count
    scale = _scale(saved, name, rank)
    # Rows of A go expert by expert; among the columns of B the expert changes fastest.
    left = first.reshape(count, rank, -1)
    right = second.reshape(len(second), rank, count).permute(2, 0, 1)
    update, size = scale * right @ left, abs(scale) * right.abs() @ left.abs()
    owner = saved.network.get_submodule(name.rpartition(".")[0])
    if getattr(owner, "is_transposed", False):
        update, size = update.transpose(1, 2), size.transpose(1, 2)
    return add(base, False, update, size, rank + 2)


def _tokens(saved: Saved) -> Formulas:
    """Return the rows of trained tokens."""
    config = saved.config
    given = config.get("trainable_token_indices") or config.get("token_indices") or []
    formulas: Formulas = {}
    for end in _TOKENS:
        for module in saved.modules(end):
            if module.endswith("token_adapter"):
                continue
            saved.claim(module, end)
            rows = given
            if isinstance(given, Mapping):
                rows = next(v for name, v in given.items() if f".{module}".endswith(f".{name}"))
            load = partial(saved.stored, module, end)
            formulas[f"{module}.weight"] = Replaced([int(row) for row in rows], load)
    return formulas


def _whole(saved: Saved) -> Formulas:
    """Return the modules that are saved whole with an adapter."""
    wanted = saved.network.state_dict()
    formulas: Formulas = {}
    for name in saved.unclaimed():
        module, _, end = name.rpartition(".")
        if name in wanted and saved.has(module, end):
            formulas[name] = Replaced(None, partial(saved.stored, module, end))
    return formulas


_METHODS: dict[str, Callable[[Saved], Formulas | None]] = {
    "LORA": _lora,
    "TRAINABLE_TOKENS": lambda saved: {},
    **updates.METHODS,
    **rotations.METHODS,
}
