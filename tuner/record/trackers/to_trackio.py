"""trackio: its local database, which `trackio show` reads and `trackio sync` sends elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from trackio.sqlite_storage import SQLiteStorage
from trackio.utils import TRACKIO_DIR

from tuner.record.trackers.points import Cursor, Point
from tuner.record.trackers.send import Labels


def open_run(folder: Path, place: str, key: str, labels: Labels) -> Trackio:
    """Return the run; its first line makes it."""
    return Trackio(key, labels)


class Trackio:
    """A run of a local project.

    `trackio.init` would ask the Hub for the user's name and send it along. Lines go to the database
    with an id each, so that it takes none twice.

    Args:
        key: of the run folder, the run's id.
        labels: the project, the run's name, its settings and tags.
    """

    at_once = True

    def __init__(self, key: str, labels: Labels) -> None:
        self.id = key
        self.where = f"{TRACKIO_DIR}, project {labels.project}, run {labels.name}"
        self._labels = labels

    def reached(self) -> Cursor | None:
        """Return None: the database leaves out lines that it has."""
        return None

    def send(self, points: Sequence[Point]) -> None:
        """Write lines; they are in the database when this returns."""
        self._write([(point.kind, point.step, point.time, point.figures) for point in points])

    def close(self, status: str, scores: Mapping[str, float], step: int) -> None:
        """Write the scores."""
        if scores:
            self._write([("scores", step, datetime.now(UTC).timestamp(), scores)])

    def _write(self, lines: Sequence[tuple[str, int, float, Mapping[str, float]]]) -> None:
        SQLiteStorage.bulk_log(
            self._labels.project,
            self._labels.name,
            [dict(figures) for *_, figures in lines],
            steps=[step for _, step, *_ in lines],
            timestamps=[datetime.fromtimestamp(at, UTC).isoformat() for _, _, at, _ in lines],
            config={**self._labels.settings, "tags": list(self._labels.tags)},
            log_ids=[f"{self.id}-{kind}-{step}" for kind, step, *_ in lines],
            run_id=self.id,
        )
