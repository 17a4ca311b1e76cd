"""`tuner sweep`: a run per combination of values of one recipe, and which run is best."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.options import (
    Json,
    Quiet,
    RecipeArgument,
    RecipeOption,
    Verbose,
    console,
    one_recipe,
    refuse_unknown_verb,
)
from tuner.errors import Interrupted, ModelError, RecipeError
from tuner.machine import packages

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.run.experiment.grid import GridPoint


def sweep(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=V,V", help="Values to try: method.r=4,8,16. Repeatable."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="DIR", help="Sweep folder; default: runs/<recipe name>-sweep."
        ),
    ] = None,
    verb: Annotated[
        str | None, typer.Option("--verb", help="Training command of the trials.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Metric to sort by; default: held-out loss.")
    ] = None,
    address: Annotated[
        str,
        typer.Option("--address", metavar="HOST:PORT", help="Address of a Ray cluster, or auto."),
    ] = "",
    cpus: Annotated[
        int | None,
        typer.Option("--cpus", min=1, help="CPUs per trial; default: all, 1 with a GPU."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="GPUs per trial; default: 1 if available.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the trials, then stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a recipe with every combination of the given values, by Ray Tune; best first."""
    from tuner.cli import run_folder, show_plan
    from tuner.run.experiment import grid, results
    from tuner.run.experiment.sweep import Sweep, by_ray, share_of

    refuse_unknown_verb(verb)
    named, where = one_recipe("sweep", recipe, option), console(json, quiet, verbose)
    if importlib.util.find_spec("ray") is None and not dry_run:
        raise ModelError(
            "tuner sweep needs a package that is not installed",
            "ray: not found",
            packages.add("ray"),
        )
    combinations = grid.combinations(Path(named), overrides or (), verb)
    first = combinations[0]
    root = Path(os.path.abspath(output or f"{run_folder.default(first.loaded)}-sweep"))
    _refuse_metric(metric)
    show_plan.header(first.loaded, where)
    experiment = Sweep(root, combinations, metric)
    for trial, each in zip(experiment.trials, combinations, strict=True):
        _refuse_chains(each, trial.folder)
    done = len(combinations) - len(experiment.waiting())
    where.event("trials", items=[{"name": e.name, "values": dict(e.values)} for e in combinations])
    where.text(f"{len(combinations)} trials, {done} of them done  {root}")
    if dry_run:
        _show(experiment.collect({}, "waiting"), where)
        return
    share = share_of(first, cpus, gpus, address)
    try:
        record = experiment.carry_out(partial(by_ray, share=share, console=where))
    except Interrupted as error:
        again = "run the same command again: finished trials are kept, the rest continue"
        raise Interrupted(error.exit_code - 128, error.what, again) from error
    _show(record, where)
    again = "fix the cause and run the same command again: what is done is not repeated"
    if failure := results.failure(record["rows"], "trials", again):
        raise failure
    where.closing(f"done: {root}")


def _refuse_chains(each: GridPoint, folder: Path) -> None:
    """Refuse recipes that name recipes: parallel trials would run the same stage."""
    from tuner.run import chain

    if links := chain.links(each.loaded, folder):
        raise RecipeError(
            f"{links[0].key}: {links[0].name} is a recipe, and every trial would run it",
            "a sweep covers the runs of one recipe only",
            f"run it once with tuner {links[0].loaded.verb}, and name its run folder instead",
        )


def _refuse_metric(metric: str | None) -> None:
    if metric is None:
        return
    from tuner.plan.metrics import METRICS
    from tuner.schema.suggest import suggestion

    if metric not in METRICS:
        raise RecipeError(
            f"--metric: {metric} is unknown",
            suggestion(metric, METRICS),
            "use one from the recipe's eval.metrics, or leave it out",
        )


def _show(record: Mapping[str, Any], console: Console) -> None:
    from tuner.run.experiment import sweep

    console.event("sweep", metric=record["metric"], rows=record["rows"])
    console.text()
    console.table(*sweep.table(record))
