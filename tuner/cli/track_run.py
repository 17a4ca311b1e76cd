"""Send a finished or stopped run to a tracker."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.console.formatting import counted
from tuner.errors import RecipeError, ResourceError, first_line
from tuner.record import runs
from tuner.record.run_json import METRICS
from tuner.record.trackers.send import alone
from tuner.record.trackers.table import TRACKERS, shown
from tuner.run.track.following import later
from tuner.run.track.sending import sender
from tuner.schema.suggest import suggestion

if TYPE_CHECKING:
    from tuner.console.console import Console


def track(name: str, tracker: str, console: Console) -> None:
    """Send what a tracker does not have yet of a run; a second time there is nothing to send.

    Args:
        name: the folder of the run, or its name.
        tracker: one of TRACKERS.
        console: shows what was sent, and where.

    Raises:
        RecipeError: there is no such run or tracker, a package or a key is missing, or the run has
            no metrics or still trains.
        ResourceError: the tracker could not be reached.
        IntegrityError: the record of the run is damaged.
    """
    if tracker not in TRACKERS:
        raise RecipeError(
            f"there is no tracker '{tracker}'",
            suggestion(tracker, TRACKERS),
            f"choose one of {', '.join(TRACKERS)}",
        )
    folder = _finished(runs.named(name))
    if lacks := TRACKERS[tracker].missing(os.environ):
        why, _, way = lacks.partition("; ")
        raise RecipeError(f"nothing can be sent to {tracker}", why, way)
    with alone(folder, tracker):
        sends = sender(folder, tracker)
        left = len(sends.left)
        place = shown(sends.state.place, folder)
        if not left and sends.state.closed:
            console.event("tracked", to=tracker, lines=0, where=sends.state.where)
            console.closing(f"nothing left to send to {tracker}: {sends.state.where}")
            return
        console.phase(f"sending {counted(left, 'line')} to {tracker} ({place})")
        try:
            # What a library prints goes to stderr: stdout is the console's.
            with contextlib.redirect_stdout(sys.stderr):
                sends.close()
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            sends.failed(reason)
            raise ResourceError(
                f"{folder} could not be sent to {tracker}",
                reason,
                f"once {place} can be reached, what is left is sent by: {later(folder, tracker)}",
            ) from error
    console.event("tracked", to=tracker, lines=left, where=sends.state.where)
    console.closing(f"sent {counted(left, 'line')} to {tracker}: {sends.state.where}")


def _finished(folder: Path) -> Path:
    """Return the folder of a run that has metrics, and no longer trains."""
    run = runs.read_run(folder)
    if run.status == "damaged":
        from tuner.record.run_json import read_record

        read_record(folder)
    if run.status == "running" and not run.note:
        raise RecipeError(
            f"the run in {folder} still trains",
            "its trackers follow it, if run.track names some",
            "send it once it has ended",
        )
    if not (folder / METRICS).is_file():
        raise RecipeError(
            f"{folder} has no {METRICS}", "it ended before its first step", "nothing is to be sent"
        )
    return folder
