"""`tuner runs`: the run folders in a folder, by their records."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.options import Json, RunsFolder, console, group
from tuner.console import formatting
from tuner.errors import RecipeError
from tuner.recipe.tracker_names import TRACKER_NAMES
from tuner.schema.suggest import suggestion

app = group("Show runs and their records.")


@app.command("list")
def list_all(folder: RunsFolder = Path("runs"), json: Json = False) -> None:
    """List the runs with status and scores."""
    from tuner.record import runs

    where = console(json)
    found = runs.list_runs(folder)
    where.event(
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
        where.text(f"no runs in {folder}")
        return
    rows = [(run.path.name, run.status, *_losses(run.record), run.note) for run in found]
    where.table(("run", "status", "loss before", "loss after", ""), rows)


@app.command("show")
def show(name: str, folder: RunsFolder = Path("runs"), json: Json = False) -> None:
    """Show the record of one run."""
    from tuner.record import runs

    where = console(json)
    path = folder / name if (folder / name).is_dir() else Path(name)
    known = [run.path.name for run in runs.list_runs(folder)]
    if not path.is_dir():
        hint = suggestion(name, known) if known else "the folder has no runs"
        raise RecipeError(f"there is no run '{name}' in {folder}", hint, "see: tuner runs list")
    run = runs.read_run(path)
    if where.json:
        where.event("run", status=run.status, note=run.note, record=run.record)
        return
    where.document(jsonlib.dumps(run.record, ensure_ascii=False, indent=2) + "\n")
    if run.note:
        where.warn(f"{run.status}: {run.note}")


@app.command("track")
def track(
    run: Annotated[str, typer.Argument(help="Run folder, or name of a run in runs/.")],
    to: Annotated[
        str, typer.Option("--to", metavar="TRACKER", help=f"One of {', '.join(TRACKER_NAMES)}.")
    ],
    json: Json = False,
) -> None:
    """Send a run to a tracker: whatever that does not have yet."""
    from tuner.cli import track_run

    track_run.track(run, to, console(json))


def _losses(record: dict[str, Any]) -> tuple[str, str]:
    scores = record.get("scores") or {}
    before, after = ((scores.get(when) or {}).get("loss") for when in ("before", "after"))
    return formatting.value(before), formatting.value(after)
