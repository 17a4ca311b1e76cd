"""Finding runs: names for new ones, the one to resume, lists of existing ones."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError, RecipeError
from tuner.record import gates
from tuner.record.lock import Owner, in_use
from tuner.record.run_json import LOCK, RUN, read_record
from tuner.schema.suggest import nearest

RUNS = Path("runs")


@dataclass(frozen=True)
class RunSummary:
    """A run as `tuner runs` shows it.

    Attributes:
        path: its folder.
        status: of the record, or `damaged`.
        record: what run.json holds; empty where it is damaged.
        note: what the status alone does not say.
    """

    path: Path
    status: str
    record: dict[str, Any]
    note: str = ""


def free_name(base: Path, taken: Collection[Path] = ()) -> Path:
    """Return `base`, or the first of `base-2`, `base-3`, ... that does not exist or is empty.

    Args:
        base: the wanted name.
        taken: names that are still free, but reserved.
    """
    number, path = 1, base
    while path in taken or (
        os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))
    ):
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def named(name: str) -> Path:
    """Return the path that a command line names; a bare name may be that of a run in `RUNS`."""
    path = Path(name)
    return path if path.exists() or not (RUNS / name).is_dir() else RUNS / name


def newest_matching(
    base: Path, recipe_sha256: str, file: str = RUN, *, done: bool = False
) -> Path | None:
    """Return the run to resume: the last unfinished of `base`, `base-2`, ... with this recipe.

    Damaged records are skipped.

    Args:
        base: the folder of the first.
        recipe_sha256: of the recipe.
        file: the record.
        done: the last finished one instead.
    """
    numbered = re.compile(re.escape(base.name) + r"(?:-([1-9][0-9]*))?")
    found = [
        (str(run.record.get("started")), int(match[1] or 1), run.path)
        for run in list_runs(base.parent, file)
        if (match := numbered.fullmatch(run.path.name))
        and (run.status == "done" if done else unfinished(run))
        and run.record.get("recipe_sha256") == recipe_sha256
    ]
    return max(found)[2] if found else None


def unfinished(run: RunSummary) -> bool:
    """Return whether `--resume` means a run: it has stopped, or has failed a gate."""
    return run.status not in ("done", "damaged") or gates.failure(run.record) is not None


def list_runs(root: Path, file: str = RUN) -> list[RunSummary]:
    """Return the runs directly under a folder, oldest first; damaged ones included."""
    if not root.is_dir():
        return []
    runs = [_summary(path, file) for path in root.iterdir() if (path / file).is_file()]
    return sorted(runs, key=lambda run: (str(run.record.get("started", "")), run.path.name))


def read_run(path: Path) -> RunSummary:
    """Return one run.

    Raises:
        RecipeError: there is no run.
    """
    if not (path / RUN).is_file():
        raise no_run(path)
    return _summary(path)


def near(name: str) -> str:
    """Return how a fix begins if a run in `RUNS` has nearly this name; else nothing."""
    known = {file.parent.name: file.parent for file in RUNS.glob(f"*/{RUN}")}
    found = nearest(name.removeprefix(f"{RUNS}/"), known)
    return f"did you mean {known[found]}? else " if found else ""


def no_run(path: Path) -> RecipeError:
    """Return the error for a folder that is not there, or holds no run."""
    return RecipeError(
        f"{path} holds no run" if path.exists() else f"there is no run {path}",
        f"there is no {path / RUN}",
        f"{near(str(path))}see `tuner runs list`",
    )


def taken(path: Path, status: str) -> RecipeError:
    """Return the error for a new run in the folder of another one, which has this status."""
    if status == "running" and (owner := _owner(path)):
        return in_use(path / LOCK, owner)
    free = f"choose another folder: --output {free_name(path)}"
    return RecipeError(
        f"{path} already holds a run",
        f"its status is {status}",
        free if status == "done" else f"continue it with --resume, or {free}",
    )


def _summary(path: Path, file: str = RUN) -> RunSummary:
    try:
        record = read_record(path, file)
    except IntegrityError as error:
        return RunSummary(path, "damaged", {}, error.why)
    note = ""
    if failed := gates.failure(record):
        note = "; ".join([failed.what, *failed.problems[:-1]])
    if record["status"] == "running" and _owner(path) is None:
        note = "its process is gone; continue it with --resume"
    return RunSummary(path, str(record["status"]), record, note)


def _owner(path: Path) -> Owner | None:
    """The run's process, if it may still be alive; only its own host knows for sure."""
    try:
        owner = Owner.parse((path / LOCK).read_text())
    except (OSError, ValueError):
        return None
    return owner if owner is not None and owner.alive() is not False else None
