"""The check that a quantized artefact is close to the tuned model, not the base, and small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from tuner.errors import IntegrityError
from tuner.export.proof.measure import Measures
from tuner.export.proof.stored import skeleton
from tuner.recipe.formats import ExportFormat
from tuner.record.proof_limits import KEPT

if TYPE_CHECKING:
    from tuner.export.job import Work

# Scales, headers, alignment.
_SIZE_MARGIN, _SIZE_FREE = 1.1, 32 << 10
_KEPT_WHOLE = ("embed", "lm_head", "wte", "wpe", "shared", "score", "classifier")


def judge(
    row: ExportFormat, figures: Measures, work: Work, folder: Path, max_kl: float | None
) -> dict[str, Any]:
    """Return the report of one artefact.

    Args:
        row: its format.
        figures: how close it is.
        work: what it was made from.
        folder: where it is for now.
        max_kl: a limit in place of the format's own.

    Returns:
        The figures, with `limit`, `limit_of`, `verdict` and `proof`.

    Raises:
        IntegrityError: it exceeds its limit, equals the base, or was never quantized.
    """
    assert row.divergence is not None
    limit = row.divergence if max_kl is None else max_kl
    if not figures.kl <= limit:
        raise refused(
            row,
            "is too far from the model that was trained",
            f"its mean KL divergence is {figures.kl:.3g}, the limit is {limit:.3g} "
            f"(the base's own: {_said(figures.kl_base)}); it was not kept",
            "choose a format with more bits, or raise the limit with --max-kl",
        )
    if figures.kl_base is not None and figures.kl > figures.kl_base:
        raise refused(
            row,
            "is farther from the tuned model than the base is",
            f"its mean KL divergence is {figures.kl:.3g}, the base's {figures.kl_base:.3g}; it was "
            "not kept",
            "train longer, so that training outweighs the rounding, or choose more bits",
        )
    if figures.kept is not None and figures.kept < KEPT:
        raise refused(
            row,
            "is the base, not the model that was trained",
            f"only {max(0.0, figures.kept):.0%} of what training changed is in it; it was not kept",
            "train longer, so that training outweighs the rounding, or choose more bits",
        )
    size = weight_bytes(folder)
    expected = _expected_bytes(row, work)
    if size > expected:
        raise refused(
            row,
            "was never quantized",
            f"its weights take {size:,} bytes; at {row.bits} bits per weight they take at most "
            f"{expected:,.0f}; it was not kept",
            "choose another format; the library does not quantize the layers of this model",
        )
    return figures.as_dict() | {
        "limit": limit,
        "limit_of": "kl",
        "verdict": "checked",
        "proof": "checked",
    }


def _said(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def weight_bytes(folder: Path) -> int:
    """Return the bytes of an artefact's weights; of a GGUF file without its vocabulary."""
    gguf = list(folder.glob("*.gguf"))
    if not gguf:
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    from gguf import GGUFReader

    return sum(int(tensor.n_bytes) for file in gguf for tensor in GGUFReader(file).tensors)


def _expected_bytes(row: ExportFormat, work: Work) -> float:
    """Return the most bytes that weights of this format may take; infinite if not quantized."""
    if row.bits is None:
        return math.inf
    job, total = work.job, 0.0
    whole = () if row.llama_type else _kept_whole(work)
    for file in work.merged.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shape = tensors.get_slice(name).get_shape()
                total += math.prod(shape) * _bits(row, name, len(shape), job["dtype"], whole) / 8
    return total * _SIZE_MARGIN + _SIZE_FREE


def _kept_whole(work: Work) -> Sequence[str]:
    """Return parts of the names of what is not quantized, including what a family computes in
    float32, such as T5's `wo`."""
    job = work.job
    network = skeleton(job["auto_class"], str(work.merged), job["trust_remote_code"])
    return *_KEPT_WHOLE, *network._keep_in_fp32_modules, *network._keep_in_fp32_modules_strict


def _bits(
    row: ExportFormat, name: str, dimensions: int, dtype: str, kept_whole: Sequence[str]
) -> float:
    """Return the bits per weight of one tensor; GGUF quantizes embeddings, too, the output matrix
    with more bits, and keeps positions and vectors in float32."""
    assert row.bits is not None
    if row.llama_type:
        whole = dimensions != 2 or any(word in name for word in ("wpe", "position"))
        return 32.0 if whole else max(row.bits, 8.5)
    whole = dimensions != 2 or any(word in name for word in kept_whole)
    return _WIDTHS[dtype] if whole else row.bits


_WIDTHS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}


def check_merge(row: ExportFormat, proven: dict[str, Any] | None) -> None:
    """Refuse a format made from a merge that does not match the method's formula.

    Raises:
        IntegrityError: with the first tensor that differs.
    """
    if proven and proven["problems"]:
        raise refused(
            row,
            "was made from a wrong merge",
            f"{proven['problems'][0]}; it was not kept",
            "please report this with export.json",
        )


def refused(row: ExportFormat, what: str, why: str, fix: str) -> IntegrityError:
    """Return the error that refuses an artefact."""
    return IntegrityError(f"the {row.name} artefact {what}", why, fix)
