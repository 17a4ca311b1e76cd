"""Writes run records in children that are killed at every call; see tests/crash.py.

Run as `python -m tests.crash_record FOLDER KIND LEVEL`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests import faults
from tuner.errors import TunerError
from tuner.record import run_folder, run_json


def records(folder: Path, kind: str, level: str) -> None:
    """Open a run, write its record and metrics, close it, with one fault at every call."""
    template = folder / "template"
    template.mkdir(parents=True)

    def action(work: Path) -> None:
        with run_folder.RunFolder.open(work, resume=True, initial={"recipe_sha256": "r"}) as run:
            run.append_metrics({"step": 1, "loss": 0.5})
            run.update(scores={"loss": 0.25})
            run.append_metrics({"step": 2, "loss": 0.25})
            run.finish()

    for work, outcome in faults.sweep(folder, faults.Fault(kind, 0, level), action, template):
        seen: dict[str, Any] = {"left": sorted(path.name for path in work.iterdir())}
        if (work / run_json.RUN).exists():
            seen["status"] = json.loads((work / run_json.RUN).read_bytes())["status"]
        try:
            with run_folder.RunFolder.open(work, resume=True) as run:
                run.truncate_metrics(1)
                run.append_metrics({"step": 2, "loss": 0.25})
                run.finish()
        except TunerError as error:
            seen["resume"] = str(error)
        metrics = (work / run_json.METRICS).read_text().splitlines()
        seen["steps"] = [json.loads(line)["step"] for line in metrics]
        seen["after"] = sorted(path.name for path in work.iterdir())
        faults.print_line(outcome, seen)


if __name__ == "__main__":
    where, *rest = sys.argv[1:]
    records(Path(where), *faults.with_level(rest))
