"""The trials of a sweep, carried out in its folder."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import __version__
from tuner.errors import RecipeError
from tuner.machine import hardware
from tuner.machine.signals import StopRequest
from tuner.record import runs
from tuner.record.disk import make_folder, resource_error, write_json
from tuner.record.lock import FolderLock
from tuner.record.run_json import RUN
from tuner.run.sweep import table
from tuner.run.sweep.grid import Trial
from tuner.run.sweep.trial import Share

if TYPE_CHECKING:
    from tuner.console.console import Console

RESULT, LOCK = "sweep.json", "sweep.lock"
# Seconds for trials to finish a step and seal it.
_PATIENCE = 60.0
_OURS = {RESULT, f".{RESULT}.tmp", LOCK, "trials", "logs", ".ray"}


def carry_out(
    trials: Sequence[Trial],
    waiting: Sequence[Trial],
    root: Path,
    metric: str | None,
    share: Share,
    console: Console,
) -> tuple[list[dict[str, Any]], str]:
    """Run the trials that are not done, write the table, and return its rows and their metric.

    Args:
        trials: all of the sweep.
        waiting: those that are not done.
        root: the sweep's folder.
        metric: sorts the table; None: the default.
        share: the resources of a trial.
        console: shows what happens.

    Raises:
        Interrupted: by a signal; running trials have sealed a checkpoint.
    """
    with StopRequest():
        lock = _open(root, waiting)
        outcomes: Mapping[str, int | str] = {}
        status = "interrupted"
        try:
            if waiting:
                # What libraries print is not ours: stdout is the console's.
                with contextlib.redirect_stdout(sys.stderr):
                    from tuner.run.sweep import engine

                    configs = {each.name: _config(each, root) for each in waiting}
                    outcomes = engine.carry_out(configs, share, root / ".ray", console)
            status = "done"
        finally:
            found, by = table.rows(trials, root / "trials", outcomes, metric)
            failed = any(row["status"] == "failed" for row in found)
            body = {
                "format": 1,
                "tuner": __version__,
                "recipe": str(trials[0].loaded.path),
                "recipe_sha256": trials[0].loaded.sha256,
                "status": "failed" if failed else status,
                "metric": by,
                "rows": found,
            }
            write_json(root / RESULT, body)
            lock.release()
    return found, by


def settle(folders: Sequence[Path]) -> None:
    """Wait a short time until stopped trials have sealed their checkpoints."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and any(
        # A run whose process is gone has a note saying so.
        (found := runs.read_run(each)).status == "running" and not found.note
        for each in folders
        if (each / RUN).is_file()
    ):
        time.sleep(0.2)


def _open(root: Path, waiting: Sequence[Trial]) -> FolderLock:
    """Open and lock the folder of the sweep.

    Raises:
        RecipeError: it is in use, or holds other things, or trials of another recipe.
        ResourceError: it cannot be written.
    """
    try:
        make_folder(root)
        names = {path.name for path in root.iterdir()}
        if not names <= _OURS:
            raise RecipeError(
                f"{root} is not empty and holds no sweep",
                f"it holds {', '.join(sorted(names - _OURS)[:3])}",
                "choose another folder with --output",
            )
        others = [
            each.name
            for each in waiting
            if (root / "trials" / each.name / RUN).exists()
            and not table.same(each, runs.read_run(root / "trials" / each.name).record or None)
        ]
        if others:
            raise RecipeError(
                f"{root} holds trials of another recipe or other rows: {', '.join(others[:3])}",
                "trials of different recipes cannot be compared in one table",
                "choose another folder with --output",
            )
        for name in ("trials", "logs", ".ray"):
            make_folder(root / name)
    except OSError as error:
        raise resource_error(error, root) from error
    return FolderLock(root / LOCK)


def _config(trial: Trial, root: Path) -> dict[str, Any]:
    """Return what a machine needs to know to carry out a trial."""
    folder, path = root / "trials" / trial.name, trial.loaded.path
    arguments = [trial.loaded.verb, "--recipe", os.path.abspath(path), "--output", str(folder)]
    arguments += [word for each in trial.overrides for word in ("--set", each)]
    log = str(table.root_log(folder))
    return {"arguments": arguments, "cwd": os.getcwd(), "folder": str(folder), "log": log}


def share_of(first: Trial, cpus: int | None, gpus: int | None, address: str) -> Share:
    """Return the resources of a trial: one GPU or the recipe's number of them, or all CPUs.

    Args:
        first: of the trials, which are alike in this.
        cpus: asked for; None: decided here.
        gpus: likewise.
        address: of a Ray cluster; empty: this machine.
    """
    asked, present = first.loaded.recipe.run, hardware.detect()
    several = asked.devices if isinstance(asked.devices, int) else 1
    usual = several if present.gpus and asked.device != "cpu" else 0
    own = usual if gpus is None else gpus
    return Share(cpus or (1 if own else present.cpu_count), own, address)
