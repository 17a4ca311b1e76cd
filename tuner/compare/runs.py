"""Carrying out a comparison: one process a run, one after the other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.compare.folder import CompareFolder
from tuner.compare.plans import Entry
from tuner.compare.rows import collect
from tuner.errors import Interrupted
from tuner.signals import StopRequest

if TYPE_CHECKING:
    from tuner.console import Console


def run(
    entries: Sequence[Entry],
    output: Path,
    head: Mapping[str, Any],
    *,
    resume: bool,
    console: Console,
) -> dict[str, Any]:
    """Carry out every run that is not done yet, one after the other.

    Args:
        entries: from `make_plans`.
        output: the folder.
        head: what the result says of the recipe.
        resume: keep what is done, go on with the rest.
        console: shows what happens.

    Returns:
        What stands in compare.json; a run that failed is a row with its error.

    Raises:
        Interrupted: by a signal; the run of the moment has sealed its checkpoint.
        RecipeError, ResourceError: the folder cannot be used.
    """
    with StopRequest() as stop:
        folder = CompareFolder(output, entries, resume)
        outcomes: dict[str, tuple[int, Any]] = {}
        status = "running"
        record = collect(folder, entries, outcomes, head, status)
        try:
            folder.write(record)
            for number, entry in enumerate(entries, 1):
                if folder.finished(entry.name):
                    console.note(f"{entry.name} is done")
                    continue
                console.phase(f"{entry.name}, {number} of {len(entries)}: {entry.steps} steps")
                outcomes[entry.name] = _carry_out(folder, entry.name, resume, stop, console)
                folder.write(collect(folder, entries, outcomes, head, status))
            status = "failed" if any(code for code, _ in outcomes.values()) else "done"
        except Interrupted:
            status = "interrupted"
            raise
        finally:
            record = collect(folder, entries, outcomes, head, status)
            folder.write(record)
            folder.release()
        return record


def _carry_out(
    folder: CompareFolder, name: str, resume: bool, stop: StopRequest, console: Console
) -> tuple[int, Any]:
    """Run one recipe in a process of its own: its exit code, and the error that it told."""
    command = [sys.executable, "-m", "tuner", "sft", "--json"]
    command += ["--recipe", str(folder.recipe(name)), "--output", str(folder.output / name)]
    error: Any = None
    child: subprocess.Popen[str] | None = None
    with open(folder.output / "logs" / f"{name}.log", "ab") as log:
        try:
            with stop.deferred():
                # In a group of its own: Ctrl-C comes to us alone and is passed on once.
                child = subprocess.Popen(
                    [*command, *(["--resume"] if resume else [])],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    encoding="utf-8",
                    errors="replace",
                    process_group=0,
                )
            assert child.stdout is not None
            for line in child.stdout:
                if not (event := _event(line)):
                    continue
                console.relay(name, event)
                error = event.get("error", error)
            code = child.wait()
        except BaseException:
            if child is not None:
                _end(child, stop.requested or signal.SIGTERM)
            raise
    if code < 0:
        said = signal.Signals(-code).name
        error = {"kind": "killed", "what": f"its process was ended by {said}", "why": ""}
    return (128 - code if code < 0 else code), error


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _end(child: subprocess.Popen[str], number: int) -> None:
    """Pass a signal on and wait until the run is sealed; a second signal ends it at once."""
    try:
        child.send_signal(number)
        # What it still says must be read, or it could not end.
        child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
