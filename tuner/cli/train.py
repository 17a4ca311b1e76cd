"""The training commands, one for each verb, and `tuner plan`, which stops at the plan."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import (
    TRAIN,
    DryRun,
    From,
    Json,
    Output,
    Overrides,
    Quiet,
    RecipeArgument,
    RecipeOption,
    Rehearse,
    Resume,
    Verbose,
    begin_from,
    console,
    refuse_unknown_verb,
)
from tuner.recipe.verbs import VERBS, Verb

if TYPE_CHECKING:
    from tuner.cli.make_plan import PlanRequest
    from tuner.console.console import Console


def register(app: typer.Typer) -> None:
    """Add a command for each verb."""
    for row in VERBS.values():
        _add(app, row)


def _add(app: typer.Typer, row: Verb) -> None:
    """Add the command of one row of the verbs table; all have the same options."""

    @app.command(row.name, help=row.summary, rich_help_panel=TRAIN)
    def command(
        recipe: RecipeArgument = None,
        option: RecipeOption = None,
        overrides: Overrides = None,
        start: From = None,
        output: Output = None,
        resume: Resume = False,
        dry_run: DryRun = False,
        rehearse: Rehearse = False,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        from tuner.cli.make_plan import PlanRequest, mode_of

        mode = mode_of(dry_run, rehearse, resume)
        named, keys = begin_from(row.name, recipe, option, overrides, start)
        asked = PlanRequest(row.name, named, keys, output, resume, mode, dry=dry_run)
        train(asked, console(json, quiet, verbose))


def plan(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    verb: Annotated[
        str | None, typer.Option("--verb", help="Training command to plan for.")
    ] = None,
    overrides: Overrides = None,
    start: From = None,
    output: Output = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="GPU", help="Plan for a GPU by name (h100, rtx4090) or memory (24GiB)."
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, help="Number of GPUs to plan for with --for; default: 1."),
    ] = None,
    resume: Resume = False,
    rehearse: Rehearse = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show the plan for a recipe. No model is loaded unless --rehearse is given."""
    from tuner.cli.make_plan import PlanRequest, mode_of

    refuse_unknown_verb(verb)
    mode = mode_of(not rehearse, rehearse, resume, card)
    named, keys = begin_from("plan", recipe, option, overrides, start)
    asked = PlanRequest(verb, named, keys, output, resume, mode, card, devices)
    train(asked, console(json, quiet, verbose))


def train(asked: PlanRequest, console: Console) -> None:
    """Make the plan and show it; carry it out if `asked.mode` says so, in one or more processes."""
    from tuner.cli import run_folder
    from tuner.cli.make_plan import Mode, make_plan
    from tuner.machine import imports, launch, ranks

    with ranks.one_failure():
        plan = make_plan(asked, console)
        if asked.mode is Mode.PLAN:
            return
        if not launch.take_part(plan.devices.per_node, plan.devices.nodes):
            return
        console.muted = not ranks.place().main
        if group := launch.Group.of(plan.devices.per_node, plan.devices.nodes):
            arguments = run_folder.command(plan.verb, asked.recipe, asked.overrides)
            arguments += ["--output", str(plan.output)]
            arguments += ["--resume"] if asked.resume else []
            arguments += ["--rehearse"] if asked.mode is Mode.REHEARSE else []
            launch.carry_out(group, [*arguments, *console.options()])
            return
        with imports.importing():
            from tuner.run import spine

        # Libraries print to stderr: stdout is the console's.
        with contextlib.redirect_stdout(sys.stderr):
            if asked.mode is Mode.RUN:
                spine.run(plan, resume=asked.resume, console=console)
                return
            from tuner.cli import show_rehearsal
            from tuner.run import rehearsal

            if found := rehearsal.rehearse(plan, console):
                show_rehearsal.show(plan, found, console)
