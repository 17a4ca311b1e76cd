"""Weights & Biases: a run on its server, or, with WANDB_MODE=offline, in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb

from tuner.record.trackers.points import Cursor, Point
from tuner.record.trackers.send import Labels, heed
from tuner.record.trackers.state import FOLDER

# Variables that say where a run goes and as whom; others, such as a name or notes, do not count.
HEEDED = ("API_KEY", "BASE_URL", "ENTITY", "IDENTITY_TOKEN_FILE", "MODE")


def open_run(folder: Path, place: str, key: str, labels: Labels) -> Wandb:
    """Begin the run, or go on with the one of an earlier start."""
    heed("WANDB_", HEEDED)
    run = wandb.init(
        project=labels.project,
        name=labels.name,
        id=key,
        resume="allow",
        config=dict(labels.settings),
        tags=list(labels.tags),
        dir=str(folder / FOLDER),
        # Nothing of the machine, the user, the code or the output.
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            host="",
            program="",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
    )
    return Wandb(run)


class Wandb:
    """A run of wandb.

    Args:
        run: as `wandb.init` returns it.
    """

    def __init__(self, run: wandb.Run) -> None:
        self._run = run
        self.id = str(run.id)
        self.where = str(run.url or run.dir)
        # It sends in the background, and waits for that only at the end.
        self.at_once = bool(run.offline)

    def reached(self) -> Cursor | None:
        """Return None: a run that goes on leaves out steps that it has."""
        return None

    def send(self, points: Sequence[Point]) -> None:
        """Hand points over."""
        for point in points:
            self._run.log(dict(point.figures), step=point.step)

    def close(self, status: str, scores: Mapping[str, float], step: int) -> None:
        """Put the scores into the summary, and wait until all is sent."""
        self._run.summary.update(dict(scores))
        self._run.finish(exit_code=0 if status == "done" else 1)
