"""`tuner compare`: several methods on the same data at equal budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import (
    DryRun,
    Json,
    Output,
    Overrides,
    Quiet,
    RecipeArgument,
    RecipeOption,
    Verbose,
    console,
    one_recipe,
)
from tuner.console import formatting

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.run.experiment.comparison import Entry


def compare(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    overrides: Overrides = None,
    output: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep finished runs and continue with the rest.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train several methods on the same data at equal budget; one table, one plot."""
    from tuner.cli import run_folder, show_plan
    from tuner.machine import hardware
    from tuner.recipe import comparison

    where = console(json, quiet, verbose)
    named = one_recipe("compare", recipe, option)
    loaded = comparison.load_comparison(Path(named), overrides or (), output)
    show_plan.header(loaded.shared, where)
    folder = run_folder.find(loaded.shared, resume, "compare.json")
    if resume:
        given = run_folder.command("compare", named, overrides or ())
        run_folder.nothing_to_resume(loaded.shared, folder, given, where, "compare.json")
    # A wrong recipe is refused before the libraries that a plan needs are imported.
    from tuner.run.experiment import comparison as compared
    from tuner.run.experiment import one_by_one, report, results

    entries = compared.make_plans(loaded, hardware.detect(), folder, where.note)
    _show_plans(entries, folder, where)
    if dry_run:
        return
    head = {"recipe": loaded.shared.name, "recipe_sha256": loaded.shared.sha256}
    experiment = compared.MethodComparison(folder, entries, head, resume)
    record = experiment.carry_out(partial(one_by_one.run, console=where))
    where.event("comparison", comparison=record)
    where.text()
    where.table(*report.table(record, errors=False))
    # Errors are long: here they go below the table.
    for line in (*results.failures(record["rows"]), *report.notes(record)):
        where.text(line)
    again = "fix the cause and run the same command with --resume; see the logs in its folder"
    if failure := results.failure(record["rows"], "runs", again):
        raise failure
    where.done(record)


def _show_plans(entries: Sequence[Entry], folder: Path, console: Console) -> None:
    from tuner.run.experiment import comparison, report

    for entry in entries:
        console.event(
            "planned",
            name=entry.name,
            method=entry.method,
            trainable_parameters=entry.trainable,
            steps=entry.steps,
            learning_rate=entry.learning_rate,
            memory_bytes=entry.memory_bytes,
            formats=entry.formats,
            equal=entry.same,
        )
    console.table(
        ("method", "trainable", "steps", "learning_rate", "memory", "formats"),
        [
            (
                entry.name,
                formatting.value(entry.trainable),
                formatting.value(entry.steps),
                formatting.value(entry.learning_rate),
                formatting.size(entry.memory_bytes),
                formatting.value(entry.formats),
            )
            for entry in entries
        ],
    )
    console.text(f"\nfolder  {folder}")
    for name, first in comparison.twins(entries).items():
        console.warn(f"{report.repeats(name, first)}; one of them is enough")
    for text in dict.fromkeys(text for entry in entries for text in entry.warnings):
        names = [entry.name for entry in entries if text in entry.warnings]
        console.warn(text if len(names) == len(entries) else f"{', '.join(names)}: {text}")
