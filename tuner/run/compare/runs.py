"""Running a comparison: one process per run, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import Interrupted
from tuner.machine.child import carry_out
from tuner.machine.signals import StopRequest
from tuner.run.compare.folder import CompareFolder
from tuner.run.compare.plans import Entry
from tuner.run.compare.rows import collect

if TYPE_CHECKING:
    from tuner.console.console import Console


def run(
    entries: Sequence[Entry],
    output: Path,
    head: Mapping[str, Any],
    *,
    resume: bool,
    console: Console,
) -> dict[str, Any]:
    """Carry out every run that is not done yet, one after the other.

    Args:
        entries: from `make_plans`.
        output: the folder.
        head: facts about the recipe.
        resume: keep what is done, continue with the rest.
        console: shows what happens.

    Returns:
        The content of compare.json; a failed run is a row with its error.

    Raises:
        Interrupted: by a signal; the current run has sealed its checkpoint.
        RecipeError, ResourceError: the folder cannot be used.
    """
    with StopRequest() as stop:
        folder = CompareFolder(output, entries, resume)
        outcomes: dict[str, tuple[int, Any]] = {}
        status = "running"
        record = collect(folder, entries, outcomes, head, status)
        try:
            folder.write(record)
            for number, entry in enumerate(entries, 1):
                if folder.finished(entry.name):
                    console.note(f"{entry.name} is done")
                    continue
                console.phase(f"{entry.name}, {number} of {len(entries)}: {entry.steps} steps")
                outcomes[entry.name] = carry_out(
                    [
                        "sft",
                        *("--recipe", str(folder.recipe(entry.name))),
                        *("--output", str(output / entry.name)),
                        *(["--resume"] if resume else []),
                    ],
                    output / "logs" / f"{entry.name}.log",
                    entry.name,
                    stop,
                    console.relay,
                )
                folder.write(collect(folder, entries, outcomes, head, status))
            status = "failed" if any(code for code, _ in outcomes.values()) else "done"
        except Interrupted:
            status = "interrupted"
            raise
        finally:
            record = collect(folder, entries, outcomes, head, status)
            folder.write(record)
            folder.release()
        return record
