"""The checks of a run to be resumed, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuner import evaluate
from tuner.console import formatting
from tuner.errors import IntegrityError
from tuner.recipe import history
from tuner.record import checkpoint, checkpoint_folder, identity, output, run_json
from tuner.record.lock import FolderLock
from tuner.run import extend

if TYPE_CHECKING:
    from pathlib import Path

    from tuner.plan.plan import Plan
    from tuner.record.checkpoint import Checkpoint


def examine(plan: Plan) -> tuple[Checkpoint | None, list[str]]:
    """Check all that `--resume` checks, without changing the folder.

    Returns:
        The checkpoint that the run continues from, or None; and what to warn of.

    Raises:
        RecipeError: the folder is in use, or holds something else.
        IntegrityError: its record, base, recipe or data do not match the checkpoints.
    """
    folder = output.resolve_output(plan.output, from_recipe=False)
    output.refuse_foreign(folder)
    lock = FolderLock(folder / run_json.LOCK)
    try:
        previous = run_json.read_record(folder)
        found = newest_checkpoint(plan, folder)
        refuse_other_base(previous, plan.base.fingerprint())
        return found
    finally:
        lock.release()


def refuse_other_base(previous: Mapping[str, Any], fingerprint: str) -> None:
    """Refuse to continue a run on other weights than it started on.

    Raises:
        IntegrityError: the record has another fingerprint.
    """
    known = previous.get("base_fingerprint")
    if known not in (None, fingerprint):
        raise IntegrityError(
            "the base model is not the one that this run was started on",
            f"the weights had sha256 {known[:12]}, now {fingerprint[:12]}",
            "restore the base, or start a new run with another --output",
        )


# What a plan decides again for another number of processes.
RECUT = ("train.micro_batch_size", "train.gradient_checkpointing")


def _other_rows(previous: Mapping[str, Any], plan: Plan) -> list[identity.Cause]:
    """Return what made the rows differ: keys of the data section, and files."""
    before, now = previous.get("plan", {}), plan.as_dict()
    found = []
    for key, value in now["values"].items():
        known = before.get("values", {}).get(key, value)
        then, this = (formatting.plain(each["value"]) for each in (known, value))
        if key.startswith("data.") and then != this:
            line = f"{key}: {formatting.value(then)} in the run, {formatting.value(this)} now"
            found.append(identity.Cause(line, key, then))
    files = {each["name"]: each for each in before.get("data", {}).get("files", ())}
    for file in now["data"]["files"]:
        then = files.get(file["name"], file)
        if then["sha256"] != file["sha256"]:
            rows = formatting.counted(then["rows"], "row")
            line = (
                f"{file['name']} has changed: {rows} of sha256 {then['sha256'][:12]} in the run, "
                f"{file['rows']:,} of {file['sha256'][:12]} now"
            )
            found.append(identity.Cause(line))
    return found


def _other_scores(previous: Mapping[str, Any], plan: Plan) -> list[str]:
    """Return a warning if other rows are held out than when the run began."""
    known = (previous.get("scored") or {}).get(evaluate.ROWS)
    if known in (None, evaluate.rows_sha256(plan)):
        return []
    causes = [cause.line for cause in _other_rows(previous, plan)]
    return [
        "other rows are held out than when the run began, so both scores are taken on the present "
        f"ones ({'; '.join(causes) or 'eval.max_rows'})"
    ]


def newest_checkpoint(plan: Plan, folder: Path) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """Load the checkpoint that a resumed run continues from, or None; and list what to warn of.

    Args:
        plan: of the run that resumes.
        folder: the run folder.

    Raises:
        IntegrityError: it was written under another recipe or data; or all are damaged.
    """
    path, skipped = checkpoint_folder.newest(
        folder / checkpoint_folder.CHECKPOINTS, folder / checkpoint_folder.BEST
    )
    if path is None:
        if skipped:
            raise IntegrityError(
                "no intact checkpoint is left",
                problems=skipped,
                fix="start again with another --output",
            )
        return None, []
    found = checkpoint.load(path, verified=True)
    before = found.state.get("processes", 1)
    # The same rows in the same order, split differently: the same update except for rounding.
    allowed: tuple[str, ...] = RECUT if before != plan.devices.world else ()
    current = plan.identity()
    saved = history.identity(found.state["identity"], current)
    previous = run_json.read_record(folder)
    causes = [
        cause._replace(line=f"the training rows differ: {cause.line}")
        for cause in _other_rows(previous, plan)
    ]
    longer = extend.found(plan, saved, {**found.state, "step": found.step})
    allowed += extend.LONGER if longer else ()
    identity.check_identity(saved, current, allowed, {"data.tokens_sha256": causes})
    return found, [*skipped, *_other_scores(previous, plan)]
