"""Sender: hands the points of a run to one tracker, each once, however often it is begun anew."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tuner.record.run_json import read_record
from tuner.record.trackers import state as states
from tuner.record.trackers.points import Cursor, Point, Points, named, numbers

# Lines handed over at once: mlflow takes up to 1,000 figures.
_AT_ONCE = 40


def heed(prefix: str, names: Sequence[str]) -> None:
    """Take variables with this prefix out of the environment, except those of these names."""
    for name in list(os.environ):
        if name.startswith(prefix) and name.removeprefix(prefix) not in names:
            del os.environ[name]


@dataclass(frozen=True)
class Labels:
    """What a tracker calls a run, and the settings that it shows next to it.

    Attributes:
        name: of the run.
        project: of the run; `experiment` in mlflow.
        tags: of the run.
        settings: numbers, flags and words of the schema, by key.
        started: when the run began, in seconds since 1970.
    """

    name: str
    project: str
    tags: Sequence[str]
    settings: Mapping[str, str | int | float | bool]
    started: float


class Remote(Protocol):
    """An open run of a tracker.

    Attributes:
        id: of the run in the tracker.
        where: what a person opens to see it: a folder or an address.
        at_once: whether what was handed over is there when `send` returns; else when `close` does.
    """

    id: str
    where: str
    at_once: bool

    def reached(self) -> Cursor | None:
        """Return how far the tracker has the run; None: it takes what it has for a repetition."""

    def send(self, points: Sequence[Point]) -> None:
        """Hand points over."""

    def close(self, status: str, scores: Mapping[str, float], step: int) -> None:
        """Hand over the scores before and after the run, if there are some, and end it.

        Args:
            status: of run.json.
            scores: by name: `before/loss`.
            step: the last one of the run.
        """


class Open(Protocol):
    """Opens a run of a tracker: a new one, or the one of an earlier start."""

    def __call__(self, folder: Path, place: str, key: str, labels: Labels) -> Remote:
        """Open it.

        Args:
            folder: of the run.
            place: where it goes (see `State`).
            key: by which the tracker finds the run of an earlier start.
            labels: what it is called.
        """


class Sender:
    """Sends what is new of a run to one place of a tracker.

    What is handed over is noted before and after: after a crash in between, the tracker is asked
    what it has.

    Args:
        folder: of the run.
        tracker: its name.
        place: where it goes.
        opens: opens a run of the tracker.
        labels: what it is called there.
    """

    def __init__(self, folder: Path, tracker: str, place: str, opens: Open, labels: Labels) -> None:
        self.folder, self.tracker, self.labels, self._opens = folder, tracker, labels, opens
        self._points = Points(folder, labels.started)
        self.state = states.load(folder, tracker, place)
        self._remote: Remote | None = None

    @property
    def left(self) -> list[Point]:
        """The points that the tracker does not have for certain."""
        return [point for point in self._points.read() if self.state.sent.beyond(point)]

    def send(self) -> None:
        """Send what is new; raises what the tracker's library raises."""
        remote = self._open()
        new = [point for point in self._points.read() if self.state.tried.beyond(point)]
        for first in range(0, len(new), _AT_ONCE):
            part = new[first : first + _AT_ONCE]
            self._note(tried=self.state.tried.after(part))
            remote.send(part)
            if remote.at_once:
                self._note(sent=self.state.tried)

    def close(self) -> None:
        """Send what is new and end the run in the tracker, as run.json says it has ended."""
        self.send()
        record = read_record(self.folder)
        scores = record.get("scores") or {} if record["status"] == "done" else {}
        figures = {named(*name.split("/")): value for name, value in numbers(scores).items()}
        last = max((point.step for point in self._points.all), default=0)
        remote = self._open()
        remote.close(str(record["status"]), figures, last)
        self._remote = None
        self._note(sent=self.state.tried, closed=str(record["status"]), problem="")

    def failed(self, problem: str) -> None:
        """Note why nothing more could be sent, and begin anew with the next call."""
        self._remote = None
        with contextlib.suppress(Exception):
            self._note(problem=problem)

    def _open(self) -> Remote:
        if self._remote is None:
            self._note(key=self.state.key or uuid.uuid4().hex[:16], closed="")
            state = self.state
            remote = self._opens(self.folder, state.place, state.key, self.labels)
            sent = state.sent if remote.id == state.id else Cursor()
            if state.tried != sent and (reached := remote.reached()) is not None:
                # Of the lines that were under way when an earlier sender ended. A tracker that
                # gives no answer leaves out itself what it has.
                sent = reached
            self._note(id=remote.id, where=remote.where, sent=sent, tried=sent)
            self._remote = remote
        return self._remote

    def _note(self, **fields: Any) -> None:
        state = states.changed(self.state, **fields)
        if state != self.state:
            self.state = state
            states.save(self.folder, self.tracker, state)


@contextlib.contextmanager
def alone(folder: Path, tracker: str) -> Iterator[None]:
    """Wait until no other process sends this run to the tracker, and keep others waiting."""
    file = states.file_of(folder, tracker)
    file.parent.mkdir(exist_ok=True)
    opened = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):
            # Where the file system has no locks, the run's own lock is all there is.
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
