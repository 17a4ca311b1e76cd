"""The training verbs and `plan`: recipe, plan, run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import machine, recipe_load
from tuner.console import Console
from tuner.recipe_load import LoadedRecipe

if TYPE_CHECKING:
    from tuner.plan import Plan

RUNS = Path("runs")


def train(
    verb: str,
    recipe: str,
    overrides: Sequence[str],
    output: str | None,
    resume: bool,
    dry_run: bool,
    console: Console,
) -> None:
    """Make the plan, show it, and unless it is a dry run carry it out."""
    plan = make_plan(verb, recipe, overrides, output, resume, console)
    if dry_run:
        return
    from tuner import run

    # What libraries print is not ours: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        run.run(plan, resume=resume, console=console)


def make_plan(
    verb: str | None,
    recipe: str,
    overrides: Sequence[str],
    output: str | None,
    resume: bool,
    console: Console,
) -> Plan:
    """Load the recipe, decide everything, show it."""
    loaded = recipe_load.load(Path(recipe), overrides, verb, output)
    if loaded.recipe.compare is not None:
        raise recipe_load.for_comparison(loaded.path, str(loaded.path))
    console.header(loaded)
    folder = run_folder(loaded, resume)
    # A wrong recipe is told before the libraries that a plan needs are imported.
    from tuner import plan as plans

    plan = plans.make(loaded, machine.detect(), output=folder, note=console.note)
    there = (folder / "run.json").exists()
    if resume and not there:
        plan.warnings.append(f"there is nothing to resume in {folder}: a new run begins there")
    if there and not resume:
        plan.warnings.append(f"{folder} already holds a run: a new one there would be refused")
    console.plan(plan)
    return plan


def run_folder(loaded: LoadedRecipe, resume: bool) -> Path:
    """The folder that was asked for; else runs/<recipe name>, numbered where that is taken.

    Raises:
        SafetyError: a path in the recipe leaves the current directory through `..`.
    """
    from tuner import record, runs

    asked = loaded.recipe.run.output
    if asked is not None:
        in_recipe = loaded.origins["run.output"].startswith("recipe")
        record.resolve_output(Path(asked), from_recipe=in_recipe)
        return Path(asked)
    base = RUNS / loaded.name
    earlier = runs.newest_matching(base, loaded.sha256) if resume else None
    return earlier or runs.free_name(base)
