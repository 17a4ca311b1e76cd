"""`sweep`: one recipe with several values, a run each, and which of them is the best."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import __version__
from tuner.cli import show_plan
from tuner.errors import Interrupted, ModelError, RecipeError
from tuner.machine import hardware, packages
from tuner.machine.signals import StopRequest
from tuner.record import runs
from tuner.record.disk import make_folder, resource_error, write_json
from tuner.record.lock import FolderLock
from tuner.record.run_json import RUN
from tuner.record.runs import RUNS
from tuner.run import chain
from tuner.run.sweep import grid, table
from tuner.run.sweep.grid import Trial

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.machine.hardware import Machine

RESULT, LOCK = "sweep.json", "sweep.lock"
# Seconds that trials have to finish a step and seal it.
_PATIENCE = 60.0
_OURS = {RESULT, f".{RESULT}.tmp", LOCK, "trials", "logs", ".ray"}


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    recipe: str
    verb: str | None
    overrides: Sequence[str]
    output: str | None
    metric: str | None
    address: str
    cpus: int | None
    gpus: int | None
    dry_run: bool


def sweep(request: Request, console: Console) -> None:
    """Check every trial, run those that are not done, show the table.

    Raises:
        TunerError: a combination that is no valid recipe, before anything runs; after all trials,
            with the exit code of the first that failed.
        Interrupted: by a signal; trials that ran have sealed a checkpoint.
    """
    if importlib.util.find_spec("ray") is None and not request.dry_run:
        raise ModelError(
            "tuner sweep needs a part that is not installed",
            "ray: not found",
            packages.add("ray"),
        )
    trials = grid.trials(Path(request.recipe), request.overrides, request.verb)
    first = trials[0].loaded
    root = Path(os.path.abspath(request.output or RUNS / f"{first.name}-sweep"))
    _refuse_metric(request.metric)
    show_plan.header(first, console)
    _refuse_chains(trials, root)
    waiting = [each for each in trials if not table.finished(each, root / "trials" / each.name)]
    console.event("trials", items=[{"name": t.name, "values": dict(t.values)} for t in trials])
    console.text(f"{len(trials)} trials, {len(trials) - len(waiting)} of them done  {root}")
    if request.dry_run:
        _show(*table.rows(trials, root / "trials", {}, request.metric), console)
        return
    try:
        found, metric = _carry_out(request, trials, waiting, root, console)
    except Interrupted as error:
        _settle([root / "trials" / each.name for each in waiting])
        again = "run the same command again: what is done is not repeated, the rest goes on"
        raise Interrupted(error.exit_code - 128, error.what, again) from error
    _show(found, metric, console)
    if failure := table.failure(found):
        raise failure
    console.closing(f"done: {root}")


def _carry_out(
    request: Request,
    trials: Sequence[Trial],
    waiting: Sequence[Trial],
    root: Path,
    console: Console,
) -> tuple[list[dict[str, Any]], str]:
    with StopRequest():
        lock = _open(root, waiting)
        outcomes: Mapping[str, int | str] = {}
        status = "interrupted"
        try:
            if waiting:
                # What libraries print is not ours: stdout is the console's.
                with contextlib.redirect_stdout(sys.stderr):
                    from tuner.run.sweep import engine

                    share = _share(request, trials[0], hardware.detect())
                    configs = {each.name: _config(each, root) for each in waiting}
                    outcomes = engine.carry_out(configs, share, root / ".ray", console)
            status = "done"
        finally:
            found, metric = table.rows(trials, root / "trials", outcomes, request.metric)
            failed = any(row["status"] == "failed" for row in found)
            body = {
                "format": 1,
                "tuner": __version__,
                "recipe": str(trials[0].loaded.path),
                "recipe_sha256": trials[0].loaded.sha256,
                "status": "failed" if failed else status,
                "metric": metric,
                "rows": found,
            }
            write_json(root / RESULT, body)
            lock.release()
    return found, metric


def _settle(folders: Sequence[Path]) -> None:
    """Wait, not for long, until trials that were stopped have sealed their checkpoints."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and any(
        # A run whose process is gone has a note of it.
        (found := runs.read_run(each)).status == "running" and not found.note
        for each in folders
        if (each / RUN).is_file()
    ):
        time.sleep(0.2)


def _open(root: Path, waiting: Sequence[Trial]) -> FolderLock:
    """The folder of the sweep, locked.

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
                "rows of different recipes cannot stand in one table",
                "choose another folder with --output",
            )
        for name in ("trials", "logs", ".ray"):
            make_folder(root / name)
    except OSError as error:
        raise resource_error(error, root) from error
    return FolderLock(root / LOCK)


def _config(trial: Trial, root: Path) -> dict[str, Any]:
    """What a machine needs to know to carry a trial out."""
    folder, path = root / "trials" / trial.name, trial.loaded.path
    arguments = [trial.loaded.verb, "--recipe", os.path.abspath(path), "--output", str(folder)]
    arguments += [word for each in trial.overrides for word in ("--set", each)]
    log = str(table.root_log(folder))
    return {"arguments": arguments, "cwd": os.getcwd(), "folder": str(folder), "log": log}


def _share(request: Request, first: Trial, present: Machine) -> Any:
    """What a trial has to itself: a GPU or as many as the recipe names, or all processors."""
    from tuner.run.sweep.engine import Share

    asked = first.loaded.recipe.run
    several = asked.devices if isinstance(asked.devices, int) else 1
    usual = several if present.gpus and asked.device != "cpu" else 0
    gpus = usual if request.gpus is None else request.gpus
    cpus = request.cpus or (1 if gpus else present.cpu_count)
    return Share(cpus, gpus, request.address)


def _refuse_chains(trials: Sequence[Trial], root: Path) -> None:
    """Refuse recipes that name recipes: trials at once would carry out the same stage."""
    for trial in trials:
        if links := chain.links(trial.loaded, root / "trials" / trial.name):
            raise RecipeError(
                f"{links[0].key}: {links[0].name} is a recipe, and every trial would run it",
                "a sweep is over the runs of one recipe",
                f"run it once, with tuner {links[0].loaded.verb}, and name its run folder there",
            )


def _refuse_metric(metric: str | None) -> None:
    if metric is None:
        return
    from tuner.evaluate import METRICS
    from tuner.schema.suggest import suggestion

    if metric not in METRICS:
        raise RecipeError(
            f"--metric: {metric} is unknown",
            suggestion(metric, METRICS),
            "name one that the recipe's eval.metrics has, or leave it out",
        )


def _show(found: Sequence[Mapping[str, Any]], metric: str, console: Console) -> None:
    console.event("sweep", metric=metric, rows=list(found))
    console.text()
    console.table(*table.cells(found, metric))
