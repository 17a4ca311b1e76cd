"""`runs`: the run folders below a folder, read from their records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.console import Console
from tuner.did_you_mean import suggestion
from tuner.errors import RecipeError

RECORD = "run.json"


def show_list(folder: Path, console: Console) -> None:
    """Name, status and scores of each run."""
    records = {path.parent.name: _read(path) for path in sorted(folder.glob(f"*/{RECORD}"))}
    console.event(
        "runs",
        items=[
            {"name": name, "status": record.get("status"), "scores": record.get("scores")}
            for name, record in records.items()
        ],
    )
    if not records:
        console.text(f"no runs in {folder}")
        return
    rows = [
        (name, str(record.get("status", "?")), _loss(record, "before"), _loss(record, "after"))
        for name, record in records.items()
    ]
    console.table(("run", "status", "loss before", "loss after"), rows)


def show(folder: Path, name: str, console: Console) -> None:
    """The record of one run, by its name or its folder."""
    choices = [folder / name / RECORD, Path(name) / RECORD]
    found = next((path for path in choices if path.is_file()), None)
    if found is None:
        known = [path.parent.name for path in sorted(folder.glob(f"*/{RECORD}"))]
        raise RecipeError(
            f"there is no run '{name}' in {folder}",
            suggestion(name, known) if known else "the folder holds no run",
            "see: tuner runs list",
        )
    record = _read(found)
    if console.json:
        console.event("run", record=record)
    else:
        console.document(json.dumps(record, ensure_ascii=False, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {"status": "unreadable"}
    return record if isinstance(record, dict) else {"status": "unreadable"}


def _loss(record: dict[str, Any], when: str) -> str:
    loss = ((record.get("scores") or {}).get(when) or {}).get("loss")
    return f"{loss:.4g}" if isinstance(loss, int | float) else "-"
