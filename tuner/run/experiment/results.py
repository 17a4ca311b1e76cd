"""The results of an experiment: a row per run from its own record, in order of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.errors import TunerError, kind_of
from tuner.plan.metrics import METRICS
from tuner.record import gates
from tuner.run.experiment.trial import Outcome


def row(
    name: str,
    facts: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    outcome: Outcome | None,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the row of a run.

    Args:
        name: of the run.
        facts: what distinguishes it.
        record: of the run, if it is done.
        outcome: if it ended this time.
        measured: further fields.
    """
    code, error = outcome or (0, None)
    if record and (gate := gates.failure(record)):
        code, error = gate.exit_code, gate.as_dict()
    scores = record["scores"] if record else {}
    return {
        "name": name,
        **facts,
        "status": "failed" if code else "done" if record else "waiting",
        "exit_code": code,
        "error": error if code else None,
        "before": scores.get("before") or None,
        "after": scores.get("after") or None,
        **measured,
    }


def shared_score(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return the first of these scores that every finished run has; the loss if there is none."""
    scores = [row["after"] or {} for row in rows if row["status"] == "done"]
    shared = (n for n in names if scores and all(each.get(n) is not None for each in scores))
    return next(shared, "loss")


def rank(row: Mapping[str, Any], score: str) -> tuple[bool, bool, float, float]:
    """Return the sort key of a row: done before failed, a good score first, then a low loss."""
    after = row["after"] or {}
    value = after.get(score)
    sign = -1.0 if score in METRICS and METRICS[score].better == "higher" else 1.0
    return (
        row["status"] != "done",
        value is None,
        sign * float(value or 0.0),
        float(after.get("loss") or 0.0),
    )


def said(row: Mapping[str, Any]) -> str:
    """Return the error of a failed run in one line."""
    error = row["error"] or {}
    why = error.get("why") or "; ".join(error.get("problems") or [])
    return f"{error.get('what', 'no error was reported')}{f' ({why})' if why else ''}"


def failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for every run that failed, with its error."""
    failed = [row for row in rows if row["exit_code"]]
    return [f"{row['name']}: exit {row['exit_code']}: {said(row)}" for row in failed]


def failure(rows: Sequence[Mapping[str, Any]], unit: str, fix: str) -> TunerError | None:
    """Return the error of the command if runs failed, with the exit code of the first.

    Args:
        rows: of the experiment.
        unit: what its runs are called.
        fix: what to do.
    """
    failed = [row for row in rows if row["status"] == "failed"]
    if not failed:
        return None
    what = f"{len(failed)} of {len(rows)} {unit} failed"
    error = TunerError(what, fix=fix, problems=failures(failed))
    error.exit_code = int(failed[0]["exit_code"])
    error.kind = kind_of(error.exit_code)
    return error
