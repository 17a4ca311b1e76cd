"""`tuner verify`: check that an artefact still gives the results proven when it was written.

The manifest alone is enough: it holds the sha256 of every file, how to load the artefact, and the
logits that it and the tuned model gave on rows of random tokens. In its run folder the prompts of
the run's rows are compared as well.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import IntegrityError, ModelError
from tuner.export import origin as origins
from tuner.export.proof import fresh_process, measure, prompts, rows
from tuner.record import manifest, proof_limits
from tuner.record.proof_limits import DRIFT

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.model.base import Base

# Of the figures measured when it was written, those that are shown again.
_PROVEN = ("proof", "dtype", "weights_kept", "answers_kept")
_OTHER_VERSION = (
    "check the versions of transformers and of the quantizing library, or export it again"
)
_THEN = ("kl", "kl_base", "top1_agreement", "perplexity", "perplexity_tuned")


def check(
    origin: SavedModel, base: str | None, force_base: bool, console: Console
) -> dict[str, Any]:
    """Read every file again, load the artefact in a fresh process, compare its logits.

    Args:
        origin: the artefact; its files were compared with its manifest when it was found.
        base: of an adapter, if not the one in its manifest.
        force_base: use it even if the adapter was trained on another base.
        console: warns.

    Returns:
        kind, path, files, stray (other files in the folder), drift (mean difference from its own
        logits then), drift_kl, limit and limit_kl, max_logit_difference (to the tuned model's),
        what was proven when it was written; and `then`, the figures in its manifest if it was made
        by `tuner export`.

    Raises:
        IntegrityError: a file differs, or the logits do.
        ModelError: it has no manifest, or one without logits; or its base is not available.
    """
    folder, sealed = origin.folder, origin.sealed
    listed = manifest.read_manifest(folder) if sealed else {"files": {}}
    files, stray = listed["files"], manifest.unlisted(folder, listed) if sealed else []
    if stray:
        console.warn(f"{folder} also contains files that are not part of it: {', '.join(stray)}")
    witness = sealed.get("witness")
    if not witness:
        raise _unverifiable(folder, bool(sealed), sealed.get("kind", "merged"))
    # Nothing in the artefact itself can allow its code to run.
    kind, facts = sealed["kind"], origins.facts(origin, None)
    if kind == "gguf-adapter":
        raise ModelError(
            f"the files of {folder} are unchanged; nothing else can be checked from them alone",
            "a GGUF adapter needs the GGUF file of its base",
            "export it again to compare it with its base",
        )
    where, below = "", []
    if kind in ("adapter", "virtual_tokens"):
        found_base = _base(origin, base, console)
        origin.check_base(found_base.name, found_base.fingerprint, console.warn, force_base)
        where, below = str(found_base.folder), [each.job() for each in found_base.folded]
    job = facts | {
        "base": where,
        "below": below,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "rows": witness["rows"],
        "targets": witness["targets"],
        "artefacts": {kind: str(folder)},
        # Those of the run that it is in; the artefact itself holds none of its data.
        "prompts": rows.load_prompts(folder.parent),
    }
    with tempfile.TemporaryDirectory(prefix="tuner-verify-") as aside:
        fresh = fresh_process.in_fresh_process(job, Path(aside))
    found = _compare(kind, folder, len(files), fresh[kind], witness, facts)
    prompts.refuse(f"{folder}", fresh_process.other_prompts(fresh, kind), _OTHER_VERSION)
    known = sealed.get("figures") or {}
    found |= {name: known.get(name, sealed.get(name)) for name in _PROVEN}
    if losing := proof_limits.warning(found):
        console.warn(losing)
    return found | {"stray": stray, "then": {name: known[name] for name in _THEN if name in known}}


def _unverifiable(folder: Path, sealed: bool, kind: str) -> ModelError:
    """The error for a model without figures to compare with."""
    if sealed:
        return ModelError(
            f"{folder} cannot be verified",
            "an earlier version wrote it: its manifest has no logits",
            f"write it again, into another folder: tuner export RUN --format {kind} --output DIR",
        )
    return ModelError(
        f"{folder} is no artefact of tuner, so there is nothing to verify it by",
        "it has no MANIFEST.json",
        "name a run folder (tuner runs list), or the folder of one of its artefacts",
    )


def _base(origin: SavedModel, named: str | None, console: Console) -> Base:
    try:
        return origin.trained_on(named, console.note)
    except ModelError as error:
        raise ModelError(
            f"the base of {origin.name} is not available; an adapter is verified on its base",
            error.what,
            "name it with --base",
        ) from error


def _compare(
    kind: str,
    folder: Path,
    files: int,
    logits: torch.Tensor,
    witness: dict[str, Any],
    facts: dict[str, Any],
) -> dict[str, Any]:
    entries = torch.tensor(witness["entries"])
    now = logits.gather(-1, entries).double()
    then, tuned = (
        torch.tensor(witness[name], dtype=torch.float64) for name in ("artefact", "tuned")
    )
    exact = facts["dtype"] == "float32" and kind in ("adapter", "virtual_tokens", "merged")
    share, limit_kl = DRIFT["exact" if exact else "rounded"]
    limit = share * max(1.0, float(then.abs().mean()))
    drift = float((now - then).abs().mean())
    drift_kl = measure.divergence(then, now)
    if not (drift <= limit and drift_kl <= limit_kl):
        raise IntegrityError(
            f"{folder} no longer computes what it did when it was written",
            f"its logits differ from those in its manifest by {drift:.3g} on average and a KL of "
            f"{drift_kl:.3g}, the limits are {limit:.3g} and {limit_kl:.3g}",
            _OTHER_VERSION,
        )
    return {
        "kind": kind,
        "path": str(folder),
        "files": files,
        "drift": drift,
        "limit": limit,
        "drift_kl": drift_kl,
        "limit_kl": limit_kl,
        "max_logit_difference": float((now - tuned).abs().max()),
    }
