"""The artefacts of a run: first what is written from its live model, then what is made of that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import IntegrityError, ModelError
from tuner.export import convert, origin, parity, pipeline
from tuner.export.job import Settings
from tuner.export.pipeline import Refusal
from tuner.export.proof import rows
from tuner.recipe.formats import FORMATS, ExportFormat
from tuner.record import manifest, seal

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.plan.plan import Plan
    from tuner.tasks.trained import Trained


def export_run(plan: Plan, trained: Trained, fingerprint: str) -> list[dict[str, Any]]:
    """Write, prove and seal every format of the plan that is written from the live model.

    Args:
        plan: says which formats.
        trained: the live model; freed when everything is written.
        fingerprint: of the base, for the manifests.

    Returns:
        For each artefact: kind, path, sha256, bytes, verified, max_logit_difference, and what
        `parity.SHOWN` lists.

    Raises:
        IntegrityError: an artefact is not what was trained; those that were proven are kept.
    """
    rows.write_rows(plan)
    if todo := _missing(plan, plan.live_formats):
        with seal.scratch(plan.output) as aside:
            live = parity.Live(plan, trained, fingerprint, aside)
            refused = pipeline.write_artefacts(live, todo, plan.output)
        if refused:
            raise _with_the_kept(plan, refused[0], "; please report this with run.json")
    return [describe(plan.output / name) for name in plan.live_formats]


def write_format(
    plan: Plan, trained: Trained, console: Console, *, rehearsal: bool
) -> list[dict[str, Any]]:
    """Make every other format of the plan from what was sealed, as `tuner export` does.

    Args:
        plan: says which formats.
        trained: the live model; it is freed, since the formats are made from files.
        console: shows what happens.
        rehearsal: the model was trained for only a few steps.

    Returns:
        For each artefact: as `describe`, with the seconds it took.

    Raises:
        IntegrityError, ModelError: a format was refused; those that were proven are kept.
    """
    seconds: dict[str, dict[str, Any]] = {}
    if todo := _missing(plan, plan.made_formats):
        parity.free_model(trained)
        said = plan.recipe.export
        limits = {name: said.options(name).get("max_kl") for name in plan.made_formats}
        settings = Settings(
            output=plan.output.resolve(),
            opened=plan.base,
            onto=said.onto,
            limits={name: limit for name, limit in limits.items() if limit is not None},
            rehearsal=rehearsal,
        )
        try:
            reports = convert.export(origin.of_plan(plan), todo, settings, console)
        except (IntegrityError, ModelError) as error:
            advice = (
                ". Otherwise train longer, choose a format with more bits, or set its limit: "
                "{NAME: {max_kl: ...}}"
            )
            raise _with_the_kept(plan, error, advice) from error
        seconds = {
            report["kind"]: {key: report[key] for key in ("seconds", "shared_seconds")}
            for report in reports
        }
    return [describe(plan.output / name) | seconds.get(name, {}) for name in plan.made_formats]


def _missing(plan: Plan, names: Sequence[str]) -> list[ExportFormat]:
    """Return those of some formats that are not sealed yet; the files of the others are checked."""
    done = [name for name in names if manifest.is_sealed(plan.output / name)]
    for name in done:
        manifest.verify(plan.output / name)
    return [FORMATS[name] for name in names if name not in done]


def _with_the_kept(plan: Plan, error: Refusal, otherwise: str) -> Refusal:
    """Return the refusal of a format, with how to end the run with those that were proven."""
    kept = [name for name in plan.formats if manifest.is_sealed(plan.output / name)]
    if not kept:
        return error
    names = ",".join(kept)
    return type(error)(
        error.what,
        error.why,
        f"kept: {', '.join(kept)}; --resume --set export.formats=[{names}] ends the run with "
        f"these{otherwise}",
        error.problems,
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
