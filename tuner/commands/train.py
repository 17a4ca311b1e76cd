"""The training verbs and `plan`: recipe, plan, run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import launch, machine, ranks, recipe_load, startup
from tuner.console import Console
from tuner.recipe_load import LoadedRecipe

if TYPE_CHECKING:
    from tuner.machine import Machine
    from tuner.plan import Plan
    from tuner.sources import Source

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
    """Make the plan, show it, and unless it is a dry run carry it out, in as many processes."""
    with ranks.one_failure():
        plan = make_plan(verb, recipe, overrides, output, resume, console, dry_run)
        if dry_run:
            return
        console.muted = not ranks.place().main
        if group := launch.Group.of(plan):
            arguments = [verb, "--recipe", recipe, *_options(overrides, plan.output, resume)]
            launch.carry_out(group, [*arguments, *console.options()])
            return
        with startup.importing():
            from tuner import run

        # What libraries print is not ours: stdout is the console's.
        with contextlib.redirect_stdout(sys.stderr):
            run.run(plan, resume=resume, console=console)


def _options(overrides: Sequence[str], output: Path, resume: bool) -> list[str]:
    given = [word for override in overrides for word in ("--set", override)]
    return [*given, "--output", str(output), *(["--resume"] if resume else [])]


def make_plan(
    verb: str | None,
    recipe: str,
    overrides: Sequence[str],
    output: str | None,
    resume: bool,
    console: Console,
    dry_run: bool = True,
) -> Plan:
    """Load the recipe, decide everything, show it; stages that it names are run or planned first.

    Args:
        verb: the training command; None: the one that fits the recipe.
        recipe: a file or the name of a bundled recipe.
        overrides: `section.key=value` each.
        output: the value of `--output`.
        resume: whether an earlier run is to be continued.
        console: shows what happens.
        dry_run: only plan the stages.
    """
    loaded = recipe_load.load(Path(recipe), overrides, verb, output)
    if loaded.recipe.compare is not None:
        raise recipe_load.for_comparison(loaded.path, str(loaded.path))
    launch.recognise(loaded.recipe.run.nodes)
    if not dry_run:
        launch.follow_parent()
        ranks.meet()
    # The parent of this process, or its rank 0, has shown the plan.
    console.muted = launch.LAUNCHED in os.environ or not ranks.place().main
    console.header(loaded)
    folder = run_folder(loaded, resume)
    # A wrong recipe is told before the libraries that a plan needs are imported.
    with startup.importing():
        from tuner import plan as plans

    present = machine.detect()
    chained = _stages(loaded, folder, present, console, dry_run)
    plan = plans.make(loaded, present, output=folder, note=console.note, chained=chained)
    there = (folder / "run.json").exists()
    if resume and not there:
        plan.warnings.append(f"there is nothing to resume in {folder}: a new run begins there")
    if there and not resume:
        plan.warnings.append(f"{folder} already holds a run: a new one there would be refused")
    console.plan(plan)
    return plan


def _stages(
    loaded: LoadedRecipe, folder: Path, present: Machine, console: Console, dry_run: bool
) -> Mapping[str, Source]:
    """What the recipes leave that this one names."""
    from tuner import chain
    from tuner import plan as plans

    found = chain.links(loaded, folder)
    if not dry_run:
        return chain.carry_out_all(found, console)
    for number, link in enumerate(found, 1):
        if link.status == "done":
            console.note(f"stage {number}, {link.name}, is done: {link.folder}")
            continue
        console.phase(f"stage {number} of {len(found) + 1}: {link.name} ({link.status})")
        console.plan(plans.make(link.loaded, present, output=link.folder, note=console.note))
    if found:
        console.phase(f"stage {len(found) + 1} of {len(found) + 1}: {loaded.name}")
    return {link.name: link.source() for link in found}


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
