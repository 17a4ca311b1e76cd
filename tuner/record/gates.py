"""Gates that a finished run has failed, from its record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tuner.console import formatting
from tuner.errors import TrainingError


def said(gate: Mapping[str, Any]) -> str:
    """Return both figures of a gate, in words."""
    value = gate["value"]
    shown = "was not measured" if value is None else f"is {formatting.value(value)}"
    return f"{gate['metric']} {shown}, and eval.gate asks for {gate['asked']}"


def failure(record: Mapping[str, Any]) -> TrainingError | None:
    """Return the error of a finished run that has failed a gate; None: it has failed none."""
    failed = [gate for gate in record.get("gates") or () if not gate["passed"]]
    if record.get("status") != "done" or not failed:
        return None
    run, verb = str(record["output"]), record.get("plan", {}).get("verb", "sft")
    again = shlex.join([verb, f"{run}/recipe.lock.yaml", "--output", run, "--resume"])
    what = f"{formatting.counted(len(failed), 'gate')} of {len(record['gates'])} failed"
    return TrainingError(
        what,
        fix="train on more rows, or for longer, as a new run; or accept these scores: "
        f"tuner {again} --set eval.gate=[]",
        problems=[
            *map(said, failed),
            f"by the {failed[0]['rows']}; the run is complete, with all artefacts: {run}",
        ],
    )
