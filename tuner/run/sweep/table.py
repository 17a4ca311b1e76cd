"""The results of the trials: one row each, from their own records, the best first."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.console import formatting
from tuner.errors import IntegrityError, TunerError, kind_of
from tuner.record.run_json import RUN, read_record
from tuner.run import content
from tuner.run.sweep.grid import Trial


def finished(trial: Trial, folder: Path) -> dict[str, Any] | None:
    """Return the record of a trial if it is done with exactly this recipe and these rows."""
    found = _record(folder)
    done = found is not None and found["status"] == "done"
    return found if done and same(trial, found) else None


def same(trial: Trial, record: Mapping[str, Any] | None) -> bool:
    """Return whether a record is of the trial's recipe; true if there is none."""
    return record is None or record.get("content_sha256") == content.content_sha256(trial.loaded)


def rows(
    trials: Sequence[Trial], root: Path, outcomes: Mapping[str, int | str], metric: str | None
) -> tuple[list[dict[str, Any]], str]:
    """Return one row per trial, the best first, and the score they are sorted by.

    Args:
        trials: of the sweep.
        root: the folder of their runs.
        outcomes: exit codes, or the engine's message, of those that ended this time.
        metric: the requested one; None: the held-out loss, or the task's first score.
    """
    made = [_row(trial, root / trial.name, outcomes.get(trial.name)) for trial in trials]
    metric = metric or _usual([row["after"] for row in made if row["after"]])
    sign = -1 if better(metric) == "higher" else 1
    made.sort(key=lambda row: _rank(row, metric, sign))
    return made, metric


def _usual(scores: Sequence[Mapping[str, float]]) -> str:
    """Return the held-out loss; if a task has none, the first score that all trials have."""
    names = ("loss", *(scores[0] if scores else ()))
    return next((n for n in names if scores and all(n in each for each in scores)), "loss")


def better(metric: str) -> str:
    """Return whether a lower or a higher value of a metric is better."""
    from tuner.plan.metrics import METRICS

    return METRICS[metric].better if metric in METRICS else "lower"


def _rank(row: Mapping[str, Any], metric: str, sign: int) -> tuple[bool, float]:
    value = (row["after"] or {}).get(metric)
    return value is None, sign * float(value or 0.0)


def _row(trial: Trial, folder: Path, outcome: int | str | None) -> dict[str, Any]:
    done, record = finished(trial, folder), _record(folder)
    failed = done is None and outcome not in (None, 0)
    status = "done" if done else "failed" if failed else "waiting"
    row: dict[str, Any] = {
        "name": trial.name,
        "values": dict(trial.values),
        "folder": str(folder),
        "status": status,
        "exit_code": outcome if isinstance(outcome, int) else 70 if failed else 0,
        "error": None,
        **dict.fromkeys(("before", "after", "seconds", "cost")),
    }
    if done:
        scores, laps = done["scores"], done["durations"]
        return row | {
            "before": scores.get("before") or None,
            "after": scores.get("after") or None,
            "seconds": laps["total"],
            "cost": done.get("cost"),
        }
    if failed:
        told = record.get("error") if record else None
        log = root_log(folder)
        row["error"] = told or _last_error(log) or {"what": f"{outcome}", "why": f"see {log}"}
    return row


def root_log(folder: Path) -> Path:
    """Return where the output of a trial's command is kept."""
    return folder.parent.parent / "logs" / f"{folder.name}.log"


def _record(folder: Path) -> dict[str, Any] | None:
    if (folder / RUN).is_file():
        with contextlib.suppress(IntegrityError):
            return read_record(folder)
    return None


def _last_error(log: Path) -> dict[str, Any] | None:
    """Return the error of a command that opened no run folder."""
    with contextlib.suppress(OSError):
        for line in reversed(log.read_text("utf-8", errors="replace").splitlines()):
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == "error":
                    return dict(event["error"])
    return None


def cells(found: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table that is shown."""
    keys = list(found[0]["values"])
    head = [*keys, f"{metric} before", "after", "time", "run"]
    priced = any(row["cost"] is not None for row in found)
    head[-1:-1] = ["cost"] if priced else []
    body = []
    for row in found:
        scores = [formatting.value((row[when] or {}).get(metric)) for when in ("before", "after")]
        seconds, cost = row["seconds"], row["cost"]
        took = row["status"] if seconds is None else formatting.duration(seconds)
        price = ["-" if cost is None else formatting.money(cost)] if priced else []
        body.append([*row["values"].values(), *scores, took, *price, row["name"]])
    return head, body


def failure(found: Sequence[Mapping[str, Any]]) -> TunerError | None:
    """Return the error of the command if trials failed, with the exit code of the first."""
    failed = [row for row in found if row["status"] == "failed"]
    if not failed:
        return None
    problems = [f"{row['name']}: exit {row['exit_code']}: {_said(row['error'])}" for row in failed]
    error = TunerError(
        f"{len(failed)} of {len(found)} trials failed",
        fix="fix the cause and run the same command again: what is done is not repeated",
        problems=problems,
    )
    error.exit_code = int(failed[0]["exit_code"])
    error.kind = kind_of(error.exit_code)
    return error


def _said(error: Mapping[str, Any]) -> str:
    why = error.get("why") or "; ".join(error.get("problems") or [])
    return f"{error.get('what', 'no error was reported')}{f' ({why})' if why else ''}"
