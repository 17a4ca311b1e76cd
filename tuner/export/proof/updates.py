"""Formulas of the methods that add an update to a weight: AdaLoRA (Zhang et al. 2023), VeRA
(Kopiczko et al. 2023), LoKr (Yeh et al. 2023), LoHa (Hyeon-Woo et al. 2021), FourierFT (Gao et al.
2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from tuner.export.proof.saved import Exact, Formulas, Saved, add, sizes


def _adalora(saved: Saved) -> Formulas:
    formulas: Formulas = {}
    for module in saved.modules("lora_A"):
        saved.claim(module, "lora_A", "lora_B", "lora_E")
        formulas[f"{module}.weight"] = partial(_adalora_one, saved, module)
    return formulas


def _adalora_one(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Return W + s B E A."""
    right = saved.get(module, "lora_E") * saved.get(module, "lora_A")
    second = saved.get(module, "lora_B")
    # A module's rank falls; the divisor stays the rank of the start.
    start, alpha = float(saved.config["init_r"]), float(saved.config["lora_alpha"])
    scale = (alpha if alpha > 0 else start) / (start + 1e-5)
    size = abs(scale) * second.abs() @ right.abs()
    return add(base, flipped, scale * second @ right, size, len(right) + 5)


def _vera(saved: Saved) -> Formulas | None:
    if not (saved.has("", "base_model.vera_A") and saved.has("", "base_model.vera_B")):
        # Its shared factors are not in the file.
        return None
    formulas: Formulas = {}
    for module in saved.modules("vera_lambda_d"):
        saved.claim(module, "vera_lambda_d", "vera_lambda_b")
        formulas[f"{module}.weight"] = partial(_vera_one, saved, module)
    return formulas


def _vera_one(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Return W + b B d A, with the first rows and columns of the shared factors."""
    inputs, outputs = sizes(saved.network.get_submodule(module))
    inner = saved.get(module, "vera_lambda_d")[:, None]
    outer = saved.get(module, "vera_lambda_b")[:, None]
    first = inner * saved.get("", "base_model.vera_A")[:, :inputs]
    second = outer * saved.get("", "base_model.vera_B")[:outputs]
    return add(base, flipped, second @ first, second.abs() @ first.abs(), len(first) + 4)


_LOKR = ("lokr_w1", "lokr_w2")


def _lokr(saved: Saved) -> Formulas | None:
    if saved.config.get("rank_dropout_scale") or saved.modules("lokr_t2"):
        return None
    formulas: Formulas = {}
    for module in sorted({*saved.modules("lokr_w1"), *saved.modules("lokr_w1_a")}):
        for side in _LOKR:
            if not saved.has(module, side):
                saved.claim(module, f"{side}_a", f"{side}_b")
        formulas[f"{module}.weight"] = partial(_lokr_one, saved, module)
    return formulas


def _lokr_one(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Return W + s (U kron V), either of which may be a product of two."""
    factors, largest, depth = [], [], 3.0
    for side in _LOKR:
        if saved.has(module, side):
            whole = saved.get(module, side)
            factors.append(whole)
            largest.append(whole.abs())
        else:
            first, second = saved.get(module, f"{side}_a"), saved.get(module, f"{side}_b")
            depth += len(second)
            factors.append(first @ second)
            largest.append(first.abs() @ second.abs())
    scale = _scale(saved, module)
    size = abs(scale) * torch.kron(*largest)
    return add(base, flipped, scale * torch.kron(*factors), size, depth)


def _scale(saved: Saved, module: str) -> float:
    rank = saved.pattern("rank_pattern", module, "r")
    return float(saved.pattern("alpha_pattern", module, "alpha")) / float(rank)


_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def _loha(saved: Saved) -> Formulas | None:
    if saved.modules("hada_t1"):
        return None
    formulas: Formulas = {}
    for module in saved.modules(_LOHA[0]):
        saved.claim(module, *_LOHA)
        formulas[f"{module}.weight"] = partial(_loha_one, saved, module)
    return formulas


def _loha_one(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Return W + s (A B) * (C D), entry by entry."""
    one, two, three, four = (saved.get(module, end) for end in _LOHA)
    scale = _scale(saved, module)
    size = abs(scale) * (one.abs() @ two.abs()) * (three.abs() @ four.abs())
    update = scale * (one @ two) * (three @ four)
    return add(base, flipped, update, size, len(two) + len(four) + 4)


def _fourierft(saved: Saved) -> Formulas:
    formulas: Formulas = {}
    for module in saved.modules("fourierft_spectrum"):
        saved.claim(module, "fourierft_spectrum")
        formulas[f"{module}.weight"] = partial(_fourierft_one, saved, module)
    return formulas


def _fourierft_one(saved: Saved, module: str, base: torch.Tensor, flipped: bool) -> Exact:
    """Return W + s times the real part of the inverse transform of a sparse spectrum."""
    spectrum = saved.get(module, "fourierft_spectrum")
    inputs, outputs = sizes(saved.network.get_submodule(module))
    # Which coefficients are learned is sampled with the seed in the config.
    seed = torch.Generator().manual_seed(int(saved.config["random_loc_seed"]))
    chosen = torch.randperm(inputs * outputs, generator=seed)[: len(spectrum)]
    dense = torch.zeros(outputs * inputs, dtype=torch.float64)
    dense[chosen] = spectrum
    scale = float(saved.config["scaling"])
    update = torch.fft.ifft2(dense.reshape(outputs, inputs)).real * scale
    # No entry is larger than the sum of all coefficients, and each meets log2 steps of the FFT.
    size = torch.full_like(update, float(spectrum.abs().sum()) * abs(scale) / update.numel())
    return add(base, flipped, update, size, 6 * math.log2(inputs * outputs))


METHODS: dict[str, Callable[[Saved], Formulas | None]] = {
    "ADALORA": _adalora,
    "VERA": _vera,
    "LOKR": _lokr,
    "LOHA": _loha,
    "FOURIERFT": _fourierft,
}
