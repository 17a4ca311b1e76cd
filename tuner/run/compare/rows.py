"""The rows of a comparison, from each run's own record, in order of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuner import __version__
from tuner.errors import TunerError, kind_of
from tuner.run.compare import report
from tuner.run.compare.folder import CompareFolder
from tuner.run.compare.plans import Entry, twins

FORMAT = 1


def collect(
    folder: CompareFolder,
    entries: Sequence[Entry],
    outcomes: Mapping[str, tuple[int, Any]],
    head: Mapping[str, Any],
    status: str,
) -> dict[str, Any]:
    """Return the content of compare.json: one row per run, the best first.

    Args:
        folder: where the runs are.
        entries: the runs.
        outcomes: exit code and error of each run that ended this time.
        head: facts about the recipe.
        status: running, done, failed or interrupted.
    """
    same = twins(entries)
    rows = [
        _row(entry, folder, outcomes.get(entry.name)) | {"same_as": same.get(entry.name)}
        for entry in entries
    ]
    score = _score(rows)
    return {
        "format": FORMAT,
        "tuner": __version__,
        **head,
        "status": status,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "output": str(folder.output),
        "equal": entries[0].same,
        "score": score,
        "rows": sorted(rows, key=lambda row: rank(row, score)),
        "durations": {"total": sum(row["seconds"] or 0 for row in rows)},
    }


def _row(entry: Entry, folder: CompareFolder, outcome: tuple[int, Any] | None) -> dict[str, Any]:
    code, error = outcome or (0, None)
    record, run = folder.finished(entry.name), folder.output / entry.name
    row: dict[str, Any] = {
        "name": entry.name,
        "method": entry.method,
        "learning_rate": entry.learning_rate,
        "trainable_parameters": entry.trainable,
        "steps": entry.steps,
        "status": "done" if record else "failed" if code else "waiting",
        "exit_code": code,
        "error": error if code else None,
        **dict.fromkeys(
            ("before", "after", "artefact", "weights_bytes", "peak_memory_bytes", "seconds")
        ),
    }
    if record is None:
        return row
    saved = {item["kind"]: item for item in record["artefacts"]}
    artefact = saved.get("adapter") or saved.get("merged")
    return row | {
        "before": record["scores"].get("before") or None,
        "after": record["scores"].get("after") or None,
        "artefact": artefact and artefact["kind"],
        "weights_bytes": artefact and _weights_bytes(run / Path(artefact["path"]).name),
        "peak_memory_bytes": record["peak_memory_bytes"],
        "seconds": record["durations"]["total"],
    }


def _weights_bytes(folder: Path) -> int:
    """Return the size without the tokenizer, which is equal for all and dwarfs small adapters."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _score(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the score to sort by: the best one that every finished run has."""
    scored = [row["after"] or {} for row in rows if row["status"] == "done"]
    for name in ("label_accuracy", "token_accuracy"):
        if scored and all(after.get(name) is not None for after in scored):
            return name
    return "loss"


def rank(row: Mapping[str, Any], score: str) -> tuple[bool, bool, float, float]:
    """Return the sort key of a row: done before failed, a high score first, then a low loss."""
    after = row["after"] or {}
    loss = after.get("loss")
    value = after.get(score) if score != "loss" else None
    return (
        row["status"] != "done",
        loss is None and value is None,
        -(value or 0.0),
        float(loss or 0.0),
    )


def failure(record: Mapping[str, Any]) -> TunerError | None:
    """Return the error of the command if runs failed, with the exit code of the first."""
    failed = [row for row in record["rows"] if row["status"] == "failed"]
    if not failed:
        return None
    error = TunerError(
        f"{len(failed)} of {len(record['rows'])} runs failed",
        fix="fix the cause and run the same command with --resume; see the logs in its folder",
        problems=report.failures(record),
    )
    error.exit_code = failed[0]["exit_code"]
    error.kind = kind_of(error.exit_code)
    return error
