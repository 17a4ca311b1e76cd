"""A sweep: a run per combination of values of one recipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import __version__
from tuner.console import formatting
from tuner.machine import hardware
from tuner.run import content
from tuner.run.experiment import results
from tuner.run.experiment.experiment import Experiment
from tuner.run.experiment.grid import GridPoint
from tuner.run.experiment.trial import Outcome, Share, Trial

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.machine.signals import StopRequest


class Sweep(Experiment):
    """The trials of a sweep in its folder.

    Args:
        root: the folder.
        combinations: one per trial.
        metric: sorts the table; None: the held-out loss, or the task's first score.
    """

    kind, unit = "sweep", "trials"
    others = "another recipe or other rows"
    result, lock = "sweep.json", "sweep.lock"
    folders = ("trials", "logs", ".ray")

    def __init__(self, root: Path, combinations: Sequence[GridPoint], metric: str | None) -> None:
        self._metric = metric
        self._combinations = {each.name: each for each in combinations}
        super().__init__(
            root,
            [
                Trial(
                    name=each.name,
                    verb=each.loaded.verb,
                    recipe=Path(os.path.abspath(each.loaded.path)),
                    folder=root / "trials" / each.name,
                    log=root / "logs" / f"{each.name}.log",
                    overrides=each.overrides,
                )
                for each in combinations
            ],
        )

    def is_of(self, trial: Trial) -> bool:
        """Return whether the run in a trial's folder is of its recipe and rows, or cannot be read.

        A run that cannot be read is refused when it is continued.
        """
        record = trial.record()
        wanted = content.content_sha256(self._combinations[trial.name].loaded)
        return record is None or record.get("content_sha256") == wanted

    def finished(self, trial: Trial) -> dict[str, Any] | None:
        """Return the record of a trial if it is done with exactly this recipe and these rows."""
        done = super().finished(trial)
        return done if done and self.is_of(trial) else None

    def collect(self, outcomes: Mapping[str, Outcome], status: str) -> dict[str, Any]:
        """Return the content of sweep.json."""
        rows = [self._row(trial, outcomes.get(trial.name)) for trial in self.trials]
        first = next((row["after"] for row in rows if row["after"]), ())
        metric = self._metric or results.shared_score(rows, ("loss", *first))
        loaded = next(iter(self._combinations.values())).loaded
        return {
            "format": 1,
            "tuner": __version__,
            "recipe": str(loaded.path),
            "recipe_sha256": loaded.sha256,
            "status": status,
            "metric": metric,
            "rows": sorted(rows, key=lambda row: results.rank(row, metric)),
        }

    def _row(self, trial: Trial, outcome: Outcome | None) -> dict[str, Any]:
        record = self.finished(trial)
        facts = {
            "values": dict(self._combinations[trial.name].values),
            "folder": str(trial.folder),
        }
        measured = {
            "seconds": record and record["durations"]["total"],
            "cost": record and record.get("cost"),
        }
        return results.row(trial.name, facts, record, outcome, measured)


def by_ray(
    sweep: Experiment,
    outcomes: dict[str, Outcome],
    stop: StopRequest,
    *,
    share: Share,
    console: Console,
) -> None:
    """Have Ray Tune run what is not done; it is imported only if anything is left to do."""
    if waiting := sweep.waiting():
        # What libraries print is not ours: stdout is the console's.
        with contextlib.redirect_stdout(sys.stderr):
            from tuner.run.experiment import ray_tune

            outcomes |= ray_tune.run(waiting, sweep.root / ".ray", share, stop, console)


def table(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table that is shown."""
    rows, metric = record["rows"], record["metric"]
    priced = any(row["cost"] is not None for row in rows)
    head = [*rows[0]["values"], f"{metric} before", "after", "time"]
    body = []
    for row in rows:
        scores = [formatting.value((row[when] or {}).get(metric)) for when in ("before", "after")]
        seconds, cost = row["seconds"], row["cost"]
        took = row["status"] if seconds is None else formatting.duration(seconds)
        price = ["-" if cost is None else formatting.money(cost)] if priced else []
        body.append([*row["values"].values(), *scores, took, *price, row["name"]])
    return [*head, *(["cost"] if priced else []), "run"], body


def share_of(first: GridPoint, cpus: int | None, gpus: int | None, address: str) -> Share:
    """Return the resources of a trial: one GPU or the recipe's number of them, or all CPUs.

    Args:
        first: of the sweep, whose trials are alike in this.
        cpus: asked for; None: decided here.
        gpus: likewise.
        address: of a Ray cluster; empty: this machine.
    """
    asked, present = first.loaded.recipe.run, hardware.detect()
    several = asked.devices if isinstance(asked.devices, int) else 1
    usual = several if present.gpus and asked.device != "cpu" else 0
    own = usual if gpus is None else gpus
    return Share(cpus or (1 if own else present.cpu_count), own, address)
