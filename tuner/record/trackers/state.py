"""State: which run of a tracker belongs to a run folder, and how far it has its metrics."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tuner.record.disk import write_json
from tuner.record.trackers.points import Cursor

# In the run folder: a file of each tracker, and what its library says.
FOLDER = "trackers"


@dataclass(frozen=True)
class State:
    """How far one place of a tracker has a run.

    Attributes:
        place: where it is sent to; one in the run folder begins with `RUN/`.
        key: by which the tracker finds the run again, whatever becomes of its folder.
        id: of the run in the tracker; empty before it is made there.
        where: what a person opens to see it: a folder or an address.
        sent: what the tracker has for certain.
        tried: what has been handed to its library, and may be there.
        closed: the status of the run that the tracker was told.
        problem: why nothing more could be sent; empty: nothing is in the way.
    """

    place: str
    key: str = ""
    id: str = ""
    where: str = ""
    sent: Cursor = field(default_factory=Cursor)
    tried: Cursor = field(default_factory=Cursor)
    closed: str = ""
    problem: str = ""


def file_of(folder: Path, tracker: str) -> Path:
    """Return the file with the state of a tracker."""
    return folder / FOLDER / f"{tracker}.json"


def log_of(folder: Path, tracker: str) -> Path:
    """Return the file with what the library of a tracker says."""
    return folder / FOLDER / f"{tracker}.log"


def load(folder: Path, tracker: str, place: str) -> State:
    """Return the state for a place; a new one if the run was never sent there."""
    return _load_all(folder, tracker).get(place, State(place))


def save(folder: Path, tracker: str, state: State) -> None:
    """Write the state of a place, and leave those of other places.

    Raises:
        ResourceError: the disk is full.
    """
    known = _load_all(folder, tracker) | {state.place: state}
    file = file_of(folder, tracker)
    file.parent.mkdir(exist_ok=True)
    write_json(file, {"format": 1, "places": [asdict(each) for each in known.values()]})


def changed(state: State, **fields: Any) -> State:
    """Return a state with other fields."""
    return replace(state, **fields)


def _load_all(folder: Path, tracker: str) -> dict[str, State]:
    file = file_of(folder, tracker)
    if not file.is_file():
        return {}
    states = [
        State(**{**each, "sent": Cursor(**each["sent"]), "tried": Cursor(**each["tried"])})
        for each in json.loads(file.read_bytes())["places"]
    ]
    return {state.place: state for state in states}
