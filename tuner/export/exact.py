"""The check that an exported adapter or merged model is what it must be, tensor by tensor.

As at the end of a run (see `parity`): tensors first, then the logits of the reloaded model against
those of the same weights here. What rounding the weights costs is only reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tuner.export.limits import refused
from tuner.export.parity import more
from tuner.export.proof import noise
from tuner.export.proof.measure import Measures
from tuner.recipe.formats import Format
from tuner.record.proof_limits import APART, REQUANTIZED, UNPROVEN

if TYPE_CHECKING:
    from tuner.export.job import Work

_REPORT = "please report this with export.json"


def judge(
    row: Format,
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
    problems = problems + (proven["problems"] if proven else [])
    what = "is not the model that was trained"
    if problems:
        raise refused(row, what, f"{problems[0]}{more(len(problems))}; it was not kept", _REPORT)
    wanted, itself = work.written[row.name]
    dtype = str(work.job["dtype"])
    near, limit = noise.apart([found], [wanted]), noise.limit(itself, [wanted], dtype)
    if not near.within(limit):
        raise refused(
            row,
            what,
            f"reloaded in a fresh process, its logits differ by {near.mean:.3g} on average and a "
            f"KL of {near.kl:.3g}; two passes over the same weights differ by at most "
            f"{limit.mean:.3g} and {limit.kl:.3g}; it was not kept",
            _REPORT,
        )
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
    share = figures.answers_kept
    unproven = proven is not None and not proven["formula"]
    if unproven and share is not None and share < UNPROVEN:
        raise refused(
            row,
            what,
            f"it keeps {share:.1%} of what training changed; it was not kept",
            _REPORT,
        )
    return figures.as_dict() | {
        "limit": limit.mean if kl_limit is None or kind != "checked" else kl_limit,
        "limit_of": "mean_logit_difference" if kind != "checked" else "kl",
        "verdict": kind,
        "proof": kind,
        "dtype": dtype,
        "noise": {"mean": near.mean, "kl": near.kl, "limits": [limit.mean, limit.kl]},
        "weights_kept": proven["weights_kept"] if proven else None,
        "answers_kept": share,
    }


def _kind(
    row: Format, work: Work, proven: dict[str, Any] | None, dtype: str
) -> tuple[str, float | None]:
    """Return the kind of proof, and the largest KL from the tuned model."""
    if row.name == "merged" and work.job["quantize"] != "none":
        return "checked", REQUANTIZED
    near = APART if dtype == "float32" else None
    if proven and not proven["formula"]:
        return "checked", near
    rounded = row.name == "merged" and not work.origin.whole and dtype != "float32"
    return "rounded" if rounded else "equal", near
