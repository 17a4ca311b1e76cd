"""run.json: reading it, and recognising files of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner import __version__
from tuner.errors import IntegrityError

RUN, METRICS, LOG, LOCK = "run.json", "metrics.jsonl", "run.log", "run.lock"
SAMPLES = "samples.jsonl"
FORMAT = 1


def is_ours(record: object) -> bool:
    return isinstance(record, dict) and {"format", "tuner", "status"} <= record.keys()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics."""
    return [json.loads(line) for line in (path / METRICS).read_text("utf-8").splitlines()]


def read_record(path: Path, name: str = RUN) -> dict[str, Any]:
    """Return the record in a run folder; IntegrityError if damaged or of a later format."""
    detail = f"{name} is not the record of a run"
    try:
        record = json.loads((path / name).read_bytes())
        if is_ours(record) and record["format"] == FORMAT:
            return dict(record)
        if is_ours(record):
            detail = (
                f"{name} has format {record['format']!r}, written by tuner {record['tuner']}; "
                f"tuner {__version__} reads format {FORMAT}"
            )
    except (OSError, ValueError, RecursionError) as error:
        detail = f"{name}: {error}"
    raise IntegrityError(
        f"the record of the run in {path} cannot be read",
        detail,
        "start a new run with another --output; the checkpoints in this one are untouched",
    )
