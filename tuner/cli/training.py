"""The commands that train: one for each verb, and those that plan, compare and sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from tuner.cli.options import (
    DryRun,
    Json,
    Output,
    Overrides,
    Quiet,
    RecipeArgument,
    RecipeOption,
    Rehearse,
    Resume,
    Verbose,
    console,
    one_recipe,
)
from tuner.recipe.verbs import VERBS, Verb

_PANEL = "Train"


def register(app: typer.Typer) -> None:
    """Add the commands to the program's."""
    for row in VERBS.values():
        _add(app, row)
    for command in (plan, compare, sweep):
        app.command(rich_help_panel=_PANEL)(command)


def _add(app: typer.Typer, row: Verb) -> None:
    """The command of one row of the verbs table; all have the same options."""

    @app.command(row.name, help=row.summary, rich_help_panel=_PANEL)
    def command(
        recipe: RecipeArgument = None,
        option: RecipeOption = None,
        overrides: Overrides = None,
        output: Output = None,
        resume: Resume = False,
        dry_run: DryRun = False,
        rehearse: Rehearse = False,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        from tuner.cli import train

        named = one_recipe(row.name, recipe, option)
        where, mode = console(json, quiet, verbose), train.mode(dry_run, rehearse, resume)
        train.train(row.name, named, overrides or (), output, resume, mode, where)


def _refuse_unknown(verb: str | None) -> None:
    if verb not in (None, *VERBS):
        raise typer.BadParameter(f"one of {', '.join(VERBS)}", param_hint="--verb")


def plan(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    verb: Annotated[
        str | None, typer.Option("--verb", help="As this command would run it.")
    ] = None,
    overrides: Overrides = None,
    output: Output = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="GPU", help="Plan for a GPU by name (h100, rtx4090) or memory (24GiB)."
        ),
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="How many GPUs --for has; default 1.")
    ] = None,
    resume: Resume = False,
    rehearse: Rehearse = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show the plan for a recipe. No model is loaded unless --rehearse is given."""
    from tuner.cli import train

    _refuse_unknown(verb)
    named = one_recipe("plan", recipe, option)
    where, mode = console(json, quiet, verbose), train.mode(not rehearse, rehearse, resume, card)
    target = train.Target(card, devices)
    train.train(verb, named, overrides or (), output, resume, mode, where, target)


def compare(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    overrides: Overrides = None,
    output: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the runs that are done, go on with the rest.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train several methods on the same data at equal budget; one table, one plot."""
    from tuner.cli import compare as compare_command

    where = console(json, quiet, verbose)
    named = one_recipe("compare", recipe, option)
    compare_command.compare(named, overrides or (), output, resume, dry_run, where)


def sweep(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=V,V", help="As method.r=4,8,16. Repeatable."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="DIR", help="Default runs/<recipe name>-sweep."),
    ] = None,
    verb: Annotated[
        str | None, typer.Option("--verb", help="The training command of the trials.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What sorts the table; default: held-out loss.")
    ] = None,
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Of a Ray cluster, or auto.")
    ] = "",
    cpus: Annotated[
        int | None,
        typer.Option("--cpus", min=1, help="Processors of a trial; default: all, 1 with a GPU."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="GPUs of a trial; default: 1 if there are.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the trials and stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe with every combination of some values, by Ray Tune; the best first."""
    from tuner.cli import sweep as sweep_command

    _refuse_unknown(verb)
    named = one_recipe("sweep", recipe, option)
    given = (named, verb, overrides or (), output, metric, address, cpus, gpus, dry_run)
    sweep_command.sweep(sweep_command.Request(*given), console(json, quiet, verbose))
