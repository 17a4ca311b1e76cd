"""`runs`: the run folders below a folder, as their records tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.console import formatting
from tuner.console.console import Console
from tuner.errors import RecipeError
from tuner.record import runs
from tuner.schema.suggest import suggestion


def show_list(folder: Path, console: Console) -> None:
    """Name, status and scores of each run."""
    found = runs.list_runs(folder)
    console.event(
        "runs",
        items=[
            {
                "name": run.path.name,
                "status": run.status,
                "started": run.record.get("started"),
                "scores": run.record.get("scores"),
                "note": run.note,
            }
            for run in found
        ],
    )
    if not found:
        console.text(f"no runs in {folder}")
        return
    rows = [(run.path.name, run.status, *_losses(run.record), run.note) for run in found]
    console.table(("run", "status", "loss before", "loss after", ""), rows)


def show(folder: Path, name: str, console: Console) -> None:
    """The record of one run, by its name or its folder."""
    path = folder / name if (folder / name).is_dir() else Path(name)
    known = [run.path.name for run in runs.list_runs(folder)]
    if not path.is_dir():
        hint = suggestion(name, known) if known else "the folder holds no run"
        raise RecipeError(f"there is no run '{name}' in {folder}", hint, "see: tuner runs list")
    run = runs.read_run(path)
    if console.json:
        console.event("run", status=run.status, note=run.note, record=run.record)
        return
    console.document(json.dumps(run.record, ensure_ascii=False, indent=2) + "\n")
    if run.note:
        console.warn(f"{run.status}: {run.note}")


def _losses(record: dict[str, Any]) -> tuple[str, str]:
    scores = record.get("scores") or {}
    before, after = ((scores.get(when) or {}).get("loss") for when in ("before", "after"))
    return formatting.value(before), formatting.value(after)
