"""Whether an artefact may be named: near enough to the tuned model, not the base, really small."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from tuner.errors import IntegrityError
from tuner.export.measure import Measures
from tuner.export_formats import Format

if TYPE_CHECKING:
    from tuner.export.work import Work

# An artefact must hold at least this share of what training changed.
KEPT = 0.5
# A merge in float64; files as they are; the same, as a share of the largest logit, where the
# weights are stored in bfloat16 or float16.
EXACT = {"adapter": (1e-5, 0.01), "merged": (1e-4, 0.1)}
# Merging into a quantized base's weights leaves their rounding behind.
REQUANTIZED = 0.5
# Scales, headers, alignment.
_SIZE_MARGIN, _SIZE_FREE = 1.1, 32 << 10
_KEPT_WHOLE = ("embed", "lm_head", "wte", "wpe", "shared", "score", "classifier")


def judge(
    row: Format, figures: Measures, work: Work, folder: Path, max_kl: float | None
) -> dict[str, Any]:
    """The report of one artefact.

    Args:
        row: its format.
        figures: how near it is.
        work: what it was made of.
        folder: where it lies as yet.
        max_kl: a limit in place of the format's own.

    Returns:
        The figures, with `bytes`, `limit`, `limit_of` and `verdict`.

    Raises:
        IntegrityError: it exceeds its limit, equals the base, or was never quantized.
    """
    limit_of, limit = _limit(row, work, max_kl)
    value = figures.kl if limit_of == "kl" else figures.max_logit_difference
    if not value <= limit:
        raise _refused(
            row,
            "is too far from the model that was trained",
            f"its {_SAID[limit_of]} is {value:.3g}, the limit is {limit:.3g} "
            f"(the base itself: {_said(figures.kl_base)}); it was not kept",
            "choose a format with more bits"
            + (", or raise the limit with --max-kl" if limit_of == "kl" else ""),
        )
    if figures.kl_base is not None and figures.kl > figures.kl_base:
        raise _refused(
            row,
            "is farther from the tuned model than the base is",
            f"its mean KL divergence is {figures.kl:.3g}, the base's {figures.kl_base:.3g}; it was "
            "not kept",
            "train longer, so that training outweighs the rounding, or choose more bits",
        )
    if figures.kept is not None and figures.kept < KEPT:
        raise _refused(
            row,
            "is the base, not the model that was trained",
            f"only {max(0.0, figures.kept):.0%} of what training changed is in it; it was not kept",
            "train longer, so that training outweighs the rounding, or choose more bits",
        )
    size = weight_bytes(folder)
    expected = _expected_bytes(row, work)
    if size > expected:
        raise _refused(
            row,
            "was never quantized",
            f"its weights take {size:,} bytes, at {row.bits} bits a weight it is at most "
            f"{expected:,.0f}; it was not kept",
            "choose another format; the layers of this model are not what the library quantizes",
        )
    return figures.as_dict() | {
        "bytes": size,
        "limit": limit,
        "limit_of": limit_of,
        "verdict": "equal" if limit_of == "max_logit_difference" else "within its limit",
    }


_SAID = {"kl": "mean KL divergence", "max_logit_difference": "largest logit difference"}


def _said(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"


def _limit(row: Format, work: Work, max_kl: float | None) -> tuple[str, float]:
    if row.exact and work.job["quantize"] != "none" and row.name == "merged":
        return "kl", REQUANTIZED if max_kl is None else max_kl
    if row.exact:
        exact, reduced = EXACT[row.name]
        if work.job["dtype"] == "float32":
            return "max_logit_difference", exact
        return "max_logit_difference", reduced * float(work.tuned.abs().max())
    assert row.divergence is not None
    return "kl", row.divergence if max_kl is None else max_kl


def weight_bytes(folder: Path) -> int:
    """Bytes of an artefact's weights; of a GGUF file without its vocabulary."""
    gguf = list(folder.glob("*.gguf"))
    if not gguf:
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    from gguf import GGUFReader

    return sum(int(tensor.n_bytes) for file in gguf for tensor in GGUFReader(file).tensors)


def _expected_bytes(row: Format, work: Work) -> float:
    """The most that weights of this format may take; infinite where nothing is quantized."""
    if row.bits is None:
        return math.inf
    total = 0.0
    for file in work.merged.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shape = tensors.get_slice(name).get_shape()
                total += math.prod(shape) * _bits(row, name, len(shape), work.job["dtype"]) / 8
    return total * _SIZE_MARGIN + _SIZE_FREE


def _bits(row: Format, name: str, dimensions: int, dtype: str) -> float:
    """Bits a weight of one tensor; GGUF quantizes embeddings, too, the output matrix with more
    bits, and keeps positions and vectors in float32."""
    assert row.bits is not None
    if row.llama_type:
        whole = dimensions != 2 or any(word in name for word in ("wpe", "position"))
        return 32.0 if whole else max(row.bits, 8.5)
    whole = dimensions != 2 or any(word in name for word in _KEPT_WHOLE)
    return _WIDTHS[dtype] if whole else row.bits


_WIDTHS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}


def _refused(row: Format, what: str, why: str, fix: str) -> IntegrityError:
    return IntegrityError(f"the {row.name} artefact {what}", why, fix)
