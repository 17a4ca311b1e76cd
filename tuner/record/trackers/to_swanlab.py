"""SwanLab: a run on its server, or, with SWANLAB_MODE=offline, in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import swanlab

from tuner.record.trackers.points import Cursor, Point
from tuner.record.trackers.send import Labels, heed
from tuner.record.trackers.state import FOLDER

# Variables that say where a run goes and as whom; others, such as a name, do not count.
HEEDED = ("API_KEY", "API_HOST", "WEB_HOST", "WORKSPACE", "MODE", "ROOT", "SAVE_DIR")


def open_run(folder: Path, place: str, key: str, labels: Labels) -> SwanLab:
    """Begin the run, or go on with the one of an earlier start."""
    heed("SWANLAB_", HEEDED)
    kept = folder / FOLDER / "swanlab"
    kept.mkdir(exist_ok=True)
    # Nothing of the machine, the user, the code or the output.
    silent = swanlab.Settings(
        interactive=False,
        terminal=swanlab.Settings.Terminal(proxy_type="none"),
        probe=swanlab.Settings.Probe(
            hardware=False,
            runtime=False,
            requirements=False,
            conda=False,
            git=False,
            swanlab=False,
            monitor=False,
        ),
    )
    run = swanlab.init(
        project=labels.project,
        name=labels.name,
        id=key,
        resume="allow",
        tags=list(labels.tags),
        config=dict(labels.settings),
        log_dir=str(kept),
        settings=silent,
    )
    return SwanLab(run, key, str(kept), offline=place.endswith("/swanlab"))


class SwanLab:
    """A run of swanlab.

    Args:
        run: as `swanlab.init` returns it.
        key: its id.
        kept: the folder of its files.
        offline: whether it stays there.
    """

    def __init__(self, run: swanlab.Run, key: str, kept: str, *, offline: bool) -> None:
        self._run = run
        self.id = key
        self.where = kept if offline else str(run.url or kept)
        # It sends in the background, and waits for that only at the end.
        self.at_once = offline

    def reached(self) -> Cursor | None:
        """Return None: it leaves out a step that a figure has."""
        return None

    def send(self, points: Sequence[Point]) -> None:
        """Hand points over."""
        for point in points:
            self._run.log(dict(point.figures), step=point.step)

    def close(self, status: str, scores: Mapping[str, float], step: int) -> None:
        """Log the scores, and wait until all is sent."""
        if scores:
            self._run.log(dict(scores), step=step)
        self._run.finish("success" if status == "done" else "crashed")
