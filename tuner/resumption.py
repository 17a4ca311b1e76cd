"""What a run must agree with to be resumed, asked before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuner import record
from tuner.errors import IntegrityError
from tuner.lock import FolderLock

if TYPE_CHECKING:
    from tuner.checkpoint import Checkpoint
    from tuner.plan import Plan


def examine(plan: Plan) -> tuple[Checkpoint | None, list[str]]:
    """Check all that `--resume` checks, and leave the folder as it is.

    Returns:
        The checkpoint that the run goes on from, or None; and what has to be skipped.

    Raises:
        RecipeError: the folder is in use, or holds something else.
        IntegrityError: its record, base, recipe or data is not what the checkpoints were made of.
    """
    from tuner import training

    folder = record.resolve_output(plan.output, from_recipe=False)
    record.refuse_foreign(folder)
    lock = FolderLock(folder / record.LOCK)
    try:
        previous = record.read_record(folder)
        found = training.newest_checkpoint(plan, folder)
        refuse_other_base(previous, plan.base.fingerprint())
        return found
    finally:
        lock.release()


def refuse_other_base(previous: Mapping[str, Any], fingerprint: str) -> None:
    """Refuse to continue a run on other weights than it started on.

    Raises:
        IntegrityError: the record names another fingerprint.
    """
    known = previous.get("base_fingerprint")
    if known not in (None, fingerprint):
        raise IntegrityError(
            "the base model is not the one that this run was started on",
            f"the weights had sha256 {known[:12]}, now {fingerprint[:12]}",
            "restore the base, or start a new run with another --output",
        )
