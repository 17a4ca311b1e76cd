"""The training verbs and `plan`: recipe, plan, run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuner import machine, recipe_load
from tuner import plan as plans
from tuner.console import Console
from tuner.plan import Plan


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
    console.header(loaded)
    folder = Path(loaded.recipe.run.output or f"runs/{loaded.name}")
    plan = plans.make(loaded, machine.detect(), output=folder, note=console.note)
    console.plan(plan)
    return plan
