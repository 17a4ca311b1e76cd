"""Formulas of the methods that multiply a weight or take its place: OFT (Qiu et al. 2023), BOFT
(Liu et al. 2023), (IA)3 (Liu et al. 2022), trained normalisation layers (Zhao et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from tuner.export.proof.saved import Exact, Formulas, Replaced, Saved, U, sizes


def _oft(saved: Saved) -> Formulas | None:
    if saved.config.get("coft"):
        return None
    formulas: Formulas = {}
    for module in saved.modules("oft_R.weight"):
        saved.claim(module, "oft_R.weight")
        formulas[f"{module}.weight"] = partial(_oft_one, saved, module)
    return formulas


def _oft_one(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Rotate by Cayley's transform of a skew matrix, or by the first terms of its series."""
    numbers = saved.get(module, "oft_R.weight")
    inputs, _ = sizes(saved.network.get_submodule(module))
    # The n (n - 1) / 2 numbers above the diagonal of a block of n.
    block = round((1 + math.sqrt(1 + 8 * numbers.shape[1])) / 2)
    skew = torch.zeros(len(numbers), block, block, dtype=torch.float64)
    rows, columns = torch.triu_indices(block, block, 1)
    skew[:, rows, columns] = numbers
    skew = skew - skew.transpose(1, 2)
    if saved.config.get("use_cayley_neumann", True):
        blocks, largest = _series(skew, int(saved.config.get("num_cayley_neumann_terms", 5)))
    else:
        blocks, largest = _cayley(skew)
    # One block may be shared by all inputs.
    repeat = inputs // block // len(blocks)
    return _rotate(
        base, flipped, blocks.repeat(repeat, 1, 1), largest.repeat(repeat, 1, 1), 4 * block
    )


def _series(skew: torch.Tensor, terms: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 1 + 2 Q + 2 Q^2 + ... + Q^(terms - 1), and the size of its terms."""
    one = torch.eye(skew.shape[1], dtype=torch.float64).expand_as(skew)
    if terms < 2:
        return one, one
    value, size = one + 2 * skew, one + 2 * skew.abs()
    power, larger = skew, skew.abs()
    # The last term counts once; peft's series of 3 has the fourth, too.
    last = {2: 1, 3: 3}.get(terms, terms - 1)
    for term in range(2, last + 1):
        power, larger = power @ skew, larger @ skew.abs()
        weight = 1 if term == last else 2
        value, size = value + weight * power, size + weight * larger
    return value, size


def _cayley(skew: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (1 - S) (1 + S)^-1 = 1 - 2 S (1 + S)^-1, and the size of its terms."""
    one = torch.eye(skew.shape[1], dtype=torch.float64).expand_as(skew)
    blocks = torch.linalg.solve(one + skew, one - skew, left=False)
    return blocks, one + 2 * skew.abs() @ torch.linalg.inv(one + skew).abs()


def _boft(saved: Saved) -> Formulas | None:
    formulas: Formulas = {}
    for module in saved.modules("boft_R"):
        saved.claim(module, "boft_R", "boft_s")
        if len(saved.stored(module, "boft_R")) != 1:
            # Several butterfly factors need a kernel for GPUs: not written down here.
            return None
        formulas[f"{module}.weight"] = partial(_boft_one, saved, module)
    return formulas


def _boft_one(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Rotate by Cayley's transform, then scale the outputs."""
    numbers = saved.get(module, "boft_R")[0]
    blocks, largest = _cayley(0.5 * (numbers - numbers.transpose(1, 2)))
    outer = saved.get(module, "boft_s")
    return _rotate(base, flipped, blocks, largest, 8 * numbers.shape[1], outer)


def _rotate(
    base: torch.Tensor,
    flipped: bool,
    blocks: torch.Tensor,
    largest: torch.Tensor,
    depth: float,
    outer: torch.Tensor | None = None,
) -> Exact:
    """Return a weight with its inputs rotated block by block, and its outputs scaled.

    Args:
        base: in float64.
        flipped: whether it is (inputs, outputs).
        blocks: (blocks, n, n).
        largest: the size of the terms of each of their entries.
        depth: how many roundings each term meets.
        outer: (outputs, 1).
    """
    upright = base.T if flipped else base
    apart = upright.reshape(len(upright), len(blocks), -1)
    value = torch.einsum("bij,obj->obi", blocks, apart).reshape(upright.shape)
    size = torch.einsum("bij,obj->obi", largest, apart.abs()).reshape(upright.shape)
    if outer is not None:
        value, size = value * outer, size * outer.abs()
    slack = U * ((depth + 2) * size + value.abs())
    return Exact(value.T, slack.T) if flipped else Exact(value, slack)


def _ia3(saved: Saved) -> Formulas:
    formulas: Formulas = {}
    for module in saved.modules("ia3_l"):
        saved.claim(module, "ia3_l")
        formulas[f"{module}.weight"] = partial(_ia3_one, saved, module)
        # Scales of inputs are (1, n); those of outputs, (n, 1), go for the bias, too.
        outputs = saved.stored(module, "ia3_l").shape[-1] == 1
        if outputs and saved.network.get_submodule(module).bias is not None:
            formulas[f"{module}.bias"] = partial(_ia3_one, saved, module)
    return formulas


def _ia3_one(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Return a weight or a bias times the learned scales."""
    scales = saved.get(module, "ia3_l")
    if base.ndim == 1:
        scales = scales.reshape(-1)
    elif flipped:
        scales = scales.T
    value = base * scales
    return Exact(value, U * value.abs())


def _norms(saved: Saved) -> Formulas:
    formulas: Formulas = {}
    for kind in ("weight", "bias"):
        end = f"ln_tuning_layers.{kind}"
        for module in saved.modules(end):
            saved.claim(module, end)
            formulas[f"{module}.{kind}"] = Replaced(None, partial(saved.stored, module, end))
    return formulas


METHODS: dict[str, Callable[[Saved], Formulas | None]] = {
    "OFT": _oft,
    "BOFT": _boft,
    "IA3": _ia3,
    "LN_TUNING": _norms,
}
