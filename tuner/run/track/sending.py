"""Make the sender of a run to a tracker, from what its folder says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.machine import imports
from tuner.plan import track
from tuner.record.run_json import read_record
from tuner.record.trackers.send import Sender
from tuner.record.trackers.table import TRACKERS

if TYPE_CHECKING:
    from tuner.record.trackers.send import Open


def sender(folder: Path, tracker: str) -> Sender:
    """Return what sends a run to a tracker: to the place that the environment names.

    The library is imported by the first call that sends.
    """
    row = TRACKERS[tracker]
    labels = track.labels(read_record(folder), folder)

    def opens(*given: object) -> object:
        return imports.function(row.opens)(*given)

    made: Open = opens  # type: ignore[assignment]
    return Sender(folder, tracker, row.place(os.environ), made, labels)
