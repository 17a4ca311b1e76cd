"""Following: the processes that send a run to its trackers, begun and ended by the run."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.console.formatting import counted
from tuner.machine import processes, ranks
from tuner.record.trackers import state as states
from tuner.record.trackers.points import Points
from tuner.record.trackers.table import TRACKERS
from tuner.run.track import child

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.plan.plan import Plan

# Seconds that a run waits for its trackers at its end; one that was stopped has less time.
PATIENCE, STOPPED_PATIENCE = 30.0, 5.0
# What a process needs to be gone by itself.
_GRACE = 3.0


class Following:
    """The senders of a run.

    Args:
        folder: of the run.
        trackers: their names.
        console: warns.
    """

    def __init__(self, folder: Path, trackers: tuple[str, ...], console: Console) -> None:
        self._folder, self._trackers, self._console = folder, trackers, console
        self._children: dict[str, processes.Popen[bytes] | None] = {}
        self._said: set[str] = set()

    def begin(self) -> None:
        """Start to send: the metrics are those that this start of the run goes on from."""
        self._children = {name: _start(self._folder, name) for name in self._trackers}

    def look(self) -> None:
        """Show where each tracker has the run, or what is in its way, as far as that is known by
        now; without waiting."""
        for name in self._children:
            state = self._state(name)
            if state.problem:
                self._console.warn(
                    f"{name} cannot be reached so far ({state.problem}); the run goes on, and it "
                    "is tried again"
                )
            elif state.where and name not in self._said:
                self._said.add(name)
                self._console.note(f"{name}: {state.where}")

    def end(self, patience: float) -> None:
        """Let the senders send the rest, and warn of what they could not.

        Args:
            patience: seconds to wait for all of them.
        """
        begun = [process for process in self._children.values() if process is not None]
        for process in begun:
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        until = time.monotonic() + patience
        for name, each in self._children.items():
            ended = "its process could not be started"
            if each is not None:
                if not processes.ended(each, until - time.monotonic()):
                    each.kill()
                    each.wait(_GRACE)
                ended = "" if each.returncode == 0 else "it gave no answer in time"
            self._warn(name, ended)
        self._children = {}

    def _warn(self, name: str, ended: str) -> None:
        """Warn of the lines that a tracker does not have for certain.

        Args:
            name: of the tracker.
            ended: why its sender did not come to its end; empty: it did.
        """
        state = self._state(name)
        points = Points(self._folder).read()
        left = sum(state.sent.beyond(point) for point in points)
        if not left and not ended:
            return
        why = state.problem or ended
        what = f"{counted(left, 'line')} of {len(points):,}" if left else "the end of the run"
        self._console.warn(
            f"not sent to {name}: {what} ({why}; see {states.log_of(self._folder, name)}); send it "
            f"later: {later(self._folder, name)}"
        )

    def _state(self, name: str) -> states.State:
        return states.load(self._folder, name, TRACKERS[name].place(os.environ))


def later(folder: Path, tracker: str) -> str:
    """Return the command that sends a run to a tracker."""
    return f"tuner runs track {shlex.quote(str(folder))} --to {tracker}"


@contextlib.contextmanager
def followed(plan: Plan, folder: Path, console: Console) -> Iterator[Following]:
    """Send a run to its trackers while the context lasts; only the first process does.

    Args:
        plan: names them.
        folder: of the run.
        console: warns.
    """
    names = plan.recipe.run.track if ranks.place().main else ()
    following = Following(folder, names, console)
    patience = STOPPED_PATIENCE
    try:
        yield following
        patience = PATIENCE
    finally:
        following.end(patience)


def _start(folder: Path, tracker: str) -> processes.Popen[bytes] | None:
    """Start the sender of a tracker; None: the system does not let it start."""
    file = states.log_of(folder, tracker)
    try:
        file.parent.mkdir(exist_ok=True)
        with open(file, "ab") as log:
            return processes.background(child.__name__, [str(folder), tracker, str(PATIENCE)], log)
    except OSError:
        return None
