"""The check that an exported adapter or merged model is what it must be, tensor by tensor.

Tensors first, then the logits of the reloaded model against those of the same weights here. What
rounding the weights costs is only reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import IntegrityError
from tuner.export.limits import refused
from tuner.export.proof import noise
from tuner.export.proof.measure import Measures
from tuner.export.proof.noise import ReadingDistance
from tuner.recipe.formats import ExportFormat
from tuner.record.proof_limits import APART, REQUANTIZED, UNPROVEN

if TYPE_CHECKING:
    from tuner.export.job import Work

# Makes the error that refuses an artefact, for a reason.
Refuse = Callable[[str], IntegrityError]
Logits = Sequence[torch.Tensor]


def same(
    refuse: Refuse,
    found: Logits,
    written: tuple[Logits, ReadingDistance],
    dtype: str,
    proven: Mapping[str, Any] | None,
    problems: Sequence[str],
) -> dict[str, Any]:
    """Refuse an artefact that is not the weights it was written from.

    Args:
        refuse: makes the error.
        found: its logits from a fresh process.
        written: logits of the weights that it was written from, and how far they are from
            themselves.
        dtype: of the stored weights.
        proven: what the fresh process found in its tensors (see `tensors.prove`).
        problems: what differs in its files.

    Returns:
        How far the logits are apart, and how far they may be, as manifests have it.

    Raises:
        IntegrityError: a tensor differs, or the logits do by more than noise.
    """
    problems = [*problems, *(proven["problems"] if proven else ())]
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise refuse(f"{problems[0]}{more}")
    wanted, itself = written
    near, limit = noise.apart(found, wanted), noise.limit(itself, wanted, dtype)
    if not near.within(limit):
        raise refuse(
            f"reloaded in a fresh process, its logits differ by {near.mean:.3g} on average and a "
            f"KL of {near.kl:.3g}; two passes over the same weights differ by at most "
            f"{limit.mean:.3g} and {limit.kl:.3g}"
        )
    return {"mean": near.mean, "kl": near.kl, "limits": [limit.mean, limit.kl]}


def unproven(refuse: Refuse, proven: Mapping[str, Any] | None, share: float | None) -> bool:
    """Return whether the method of a merge has no formula.

    Args:
        refuse: makes the error.
        proven: what a fresh process found in the tensors; None: nothing was merged.
        share: of the change in the answers that is kept; None if unknown.

    Raises:
        IntegrityError: it has none, and too little of what training changed is kept.
    """
    if proven is None or proven["formula"]:
        return False
    if share is not None and share < UNPROVEN:
        raise refuse(f"it keeps {share:.1%} of what training changed")
    return True


def judge(
    row: ExportFormat,
    figures: Measures,
    work: Work,
    found: torch.Tensor,
    proven: dict[str, Any] | None,
    problems: list[str],
    max_kl: float | None,
) -> dict[str, Any]:
    """Return what was proven about an artefact.

    Args:
        row: its format: adapter or merged.
        figures: how near it is to the tuned model.
        work: what it was made from.
        found: its logits from a fresh process.
        proven: what that found in its tensors (see `tensors.prove`); None for an adapter.
        problems: what differs in the files of an adapter.
        max_kl: a limit in place of `REQUANTIZED`.

    Returns:
        The figures, with limit, limit_of, verdict, proof and the shares that are kept.

    Raises:
        IntegrityError: it is not what was trained.
    """
    refusal = partial(_refused, row)
    dtype = str(work.job["dtype"])
    wanted, itself = work.written[row.name]
    near = same(refusal, [found], ([wanted], itself), dtype, proven, problems)
    kind, kl_limit = _kind(row, work, proven, dtype)
    if max_kl is not None and kind == "checked":
        kl_limit = max_kl
    if kl_limit is not None and not figures.kl <= kl_limit:
        raise refused(
            row,
            "is too far from the model that was trained",
            f"its mean KL divergence is {figures.kl:.3g}, the limit is {kl_limit:.3g}; it was not "
            "kept",
            "export only the adapter, or raise the limit with --max-kl",
        )
    unproven(refusal, proven, figures.answers_kept)
    return figures.as_dict() | {
        "limit": near["limits"][0] if kl_limit is None or kind != "checked" else kl_limit,
        "limit_of": "mean_logit_difference" if kind != "checked" else "kl",
        "verdict": kind,
        "proof": kind,
        "dtype": dtype,
        "noise": near,
        "weights_kept": proven["weights_kept"] if proven else None,
        "answers_kept": figures.answers_kept,
    }


def _refused(row: ExportFormat, why: str) -> IntegrityError:
    return refused(
        row,
        "is not the model that was trained",
        f"{why}; it was not kept",
        "please report this with export.json",
    )


def _kind(
    row: ExportFormat, work: Work, proven: dict[str, Any] | None, dtype: str
) -> tuple[str, float | None]:
    """Return the kind of proof, and the largest KL from the tuned model."""
    if row.name == "merged" and work.job["quantize"] != "none":
        return "checked", REQUANTIZED
    near = APART if dtype == "float32" else None
    if proven and not proven["formula"]:
        return "checked", near
    rounded = row.name == "merged" and not work.origin.whole and dtype != "float32"
    return "rounded" if rounded else "equal", near
