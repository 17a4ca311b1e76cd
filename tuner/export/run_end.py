"""The artefacts of a run that are written from its live model.

Every artefact is written aside, loaded by a fresh process with only peft and transformers, proven
there (see `parity`), and only then sealed under its final name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import IntegrityError
from tuner.export import card, parity
from tuner.export.proof import fresh_process, rows
from tuner.machine.imports import function
from tuner.recipe.formats import FORMATS
from tuner.record import manifest, provenance, seal

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.tasks.trained import Trained


def write(plan: Plan, trained: Trained, fingerprint: str) -> list[dict[str, Any]]:
    """Write, verify and seal every format of the plan that is written from the live model.

    Args:
        plan: says which formats.
        trained: the live model; freed when everything is written.
        fingerprint: of the base, for the manifests.

    Returns:
        For each artefact: kind, path, sha256, bytes, verified, max_logit_difference, and what
        `parity.SHOWN` lists.

    Raises:
        IntegrityError: an artefact is not what was trained; nothing is left under its name.
    """
    rows.write(plan)
    formats = list(plan.live_formats)
    done = [name for name in formats if manifest.is_sealed(plan.output / name)]
    for name in done:
        manifest.verify(plan.output / name)
    todo = [name for name in formats if name not in done]
    if todo:
        extras: dict[str, dict[str, Any]] = {
            name: {
                "kind": name,
                "base": plan.base.name,
                "base_fingerprint": fingerprint,
                "facts": fresh_process.facts_of(plan),
                "versions": provenance.versions(("torch", "transformers", "peft")),
            }
            for name in todo
        }
        refused: list[IntegrityError] = []
        with contextlib.ExitStack() as stack:
            each = {name: stack.enter_context(contextlib.ExitStack()) for name in todo}
            folders = {
                name: each[name].enter_context(seal.seal(plan.output / name, extra=extras[name]))
                for name in todo
            }
            aside = stack.enter_context(seal.scratch(plan.output))
            seen = parity.Live(plan, trained, aside)
            for name, folder in folders.items():
                seen.write(name, function(FORMATS[name].live), folder)
                if FORMATS[name].card:
                    facts = fresh_process.facts_of(plan)
                    card.write(folder, name, plan.base.name, facts, card.of_run(plan, trained))
            # Its memory goes to the fresh process: a GPU may have no room for both.
            parity.let_go(trained)
            fresh, proofs = fresh_process.fresh_logits(plan, folders, seen.rows, seen.proofs)
            for name in folders:
                # What is proven is kept, even if others fail.
                try:
                    with each[name]:
                        extras[name] |= seen.judge(name, fresh[name], proofs.get(name))
                except IntegrityError as error:
                    refused.append(error)
        if refused:
            raise _with_the_proven(plan, refused[0], formats)
    return [describe(plan.output / name) for name in formats]


def _with_the_proven(plan: Plan, error: IntegrityError, formats: Sequence[str]) -> IntegrityError:
    """Return the refusal of an artefact, with how to end the run with those that were kept."""
    kept = [name for name in formats if manifest.is_sealed(plan.output / name)]
    if not kept:
        return error
    names = ",".join(kept)
    return IntegrityError(
        error.what,
        error.why,
        f"kept: {', '.join(kept)}; --resume --set export.formats=[{names}] ends the run with "
        "these; please report this with run.json",
    )


def describe(folder: Path) -> dict[str, Any]:
    """Return an artefact as run.json lists it: its sha256 is that of its weights or of their list;
    for a format that is not written from the live model, the measured figures are included."""
    sealed = manifest.read_manifest(folder)
    weights = {
        name: entry
        for name, entry in sealed["files"].items()
        if name.endswith((".safetensors", ".gguf"))
    }
    digest = next(iter(weights.values()))["sha256"] if len(weights) == 1 else None
    extra = sealed["extra"]
    known = {name: extra[name] for name in parity.SHOWN if name in extra}
    return {
        **(extra.get("figures") or {}),
        "kind": extra["kind"],
        "path": str(folder),
        "sha256": digest or manifest.digest(weights),
        "bytes": sum(entry["bytes"] for entry in sealed["files"].values()),
        "verified": extra["verified"],
        "max_logit_difference": extra["max_logit_difference"],
        **known,
    }
