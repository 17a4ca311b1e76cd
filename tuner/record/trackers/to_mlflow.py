"""MLflow: a run of an experiment, on a server or in a local SQLite file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from tuner.record.trackers.points import EVALUATION, TRAIN, Cursor, Point
from tuner.record.trackers.send import Labels

# By it the run of a folder is found again.
_KEY, _TAGS = "tuner.run", "tuner.tags"
_STATUS = {"done": "FINISHED", "failed": "FAILED", "running": "KILLED", "interrupted": "KILLED"}
# What a server takes of figures, and of settings, in a call.
_FIGURES, _PARAMS = 1000, 100


def open_run(folder: Path, place: str, key: str, labels: Labels) -> Mlflow:
    """Open the run of an earlier start, or make it."""
    return Mlflow(MlflowClient(tracking_uri=place), place, key, labels)


class Mlflow:
    """A run of mlflow, by its client: nothing of the machine or the user is sent with it.

    Args:
        client: of the server.
        place: its address.
        key: of the run folder, kept as a tag.
        labels: the experiment, the run's name, its tags and parameters.
    """

    at_once = True

    def __init__(self, client: MlflowClient, place: str, key: str, labels: Labels) -> None:
        self._client = client
        experiment = _experiment(client, labels.project)
        found = client.search_runs([experiment], f"tags.`{_KEY}` = '{key}'", max_results=1)
        run = found[0] if found else self._new(experiment, key, labels)
        self.id = run.info.run_id
        self.where = f"{place}, experiment {labels.project}, run {self.id}"
        client.update_run(self.id, status="RUNNING")

    def reached(self) -> Cursor:
        """Return the last step of each kind that the server has."""
        last = {TRAIN: 0, EVALUATION: 0}
        for name in self._client.get_run(self.id).data.metrics:
            kind = name.partition("/")[0]
            if kind in last:
                history = self._client.get_metric_history(self.id, name)
                last[kind] = max(last[kind], *(metric.step for metric in history))
        return Cursor(last[TRAIN], last[EVALUATION])

    def send(self, points: Sequence[Point]) -> None:
        """Log the figures of points; the server has them when this returns."""
        metrics = [
            Metric(name, value, int(1000 * point.time), point.step)
            for point in points
            for name, value in point.figures.items()
        ]
        for first in range(0, len(metrics), _FIGURES):
            part = metrics[first : first + _FIGURES]
            self._client.log_batch(self.id, metrics=part, synchronous=True)

    def close(self, status: str, scores: Mapping[str, float], step: int) -> None:
        """Log the scores and end the run."""
        if scores:
            known = self._client.get_run(self.id)
            at = known.info.start_time
            metrics = [Metric(name, value, at, step) for name, value in scores.items()]
            self._client.log_batch(self.id, metrics=metrics, synchronous=True)
        self._client.set_terminated(self.id, _STATUS.get(status, "FAILED"))

    def _new(self, experiment: str, key: str, labels: Labels) -> Any:
        tags = {_KEY: key} | ({_TAGS: ", ".join(labels.tags)} if labels.tags else {})
        run = self._client.create_run(experiment, int(1000 * labels.started), tags, labels.name)
        params = [Param(name, str(value)) for name, value in labels.settings.items()]
        for first in range(0, len(params), _PARAMS):
            part = params[first : first + _PARAMS]
            self._client.log_batch(run.info.run_id, params=part, synchronous=True)
        return run


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        # Another run has just made it.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)
