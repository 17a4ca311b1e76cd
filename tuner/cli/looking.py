"""The commands that only look: at data, recipes, templates, runs, and the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.options import (
    Json,
    Overrides,
    RecipeArgument,
    RecipeOption,
    RunsFolder,
    Verbose,
    console,
    group,
    one_recipe,
)

_PANEL = "Look"

data = group("Look at the data as the model will see it.")
recipes = group("Recipes that come with the program.")
templates = group("Data templates that come with the program.")
runs = group("Runs and their records.")


def register(app: typer.Typer) -> None:
    """Add the commands to the program's."""
    app.command(rich_help_panel=_PANEL)(doctor)
    for name, sub in (
        ("data", data),
        ("recipes", recipes),
        ("templates", templates),
        ("runs", runs),
    ):
        app.add_typer(sub, name=name, rich_help_panel=_PANEL)


@data.command("preview")
def data_preview(
    recipe: RecipeArgument = None,
    option: RecipeOption = None,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many rows.")] = 3,
    overrides: Overrides = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show rendered rows with the supervised spans marked."""
    from tuner.cli import data as preview

    named = one_recipe("data preview", recipe, option)
    preview.preview(named, overrides or (), rows, console(json, False, verbose))


@recipes.command("list")
def recipes_list(json: Json = False) -> None:
    """Name and purpose of each recipe."""
    from tuner.cli import library

    library.list_recipes(console(json))


@recipes.command("show")
def recipes_show(name: str, json: Json = False) -> None:
    """The text of a recipe."""
    from tuner.cli import library

    library.show("recipes", name, console(json))


@recipes.command("copy")
def recipes_copy(
    name: str,
    destination: Annotated[Path, typer.Argument(help="A folder, or the new file's name.")] = Path(),
    json: Json = False,
) -> None:
    """Copy a recipe and its sample data; nothing is overwritten."""
    from tuner.cli import library

    library.copy(name, destination, console(json))


@recipes.command("schema")
def recipes_schema(json: Json = False) -> None:
    """The JSON Schema of a recipe, for editors."""
    from tuner.cli import library

    library.schema(console(json))


@templates.command("list")
def templates_list(json: Json = False) -> None:
    """Name and purpose of each data template."""
    from tuner.cli import library

    library.list_templates(console(json))


@templates.command("show")
def templates_show(name: str, json: Json = False) -> None:
    """The text of a data template."""
    from tuner.cli import library

    library.show("data_templates", name, console(json))


@runs.command("list")
def runs_list(folder: RunsFolder = Path("runs"), json: Json = False) -> None:
    """Status and scores of each run."""
    from tuner.cli import runs as command

    command.show_list(folder, console(json))


@runs.command("show")
def runs_show(name: str, folder: RunsFolder = Path("runs"), json: Json = False) -> None:
    """The record of one run."""
    from tuner.cli import runs as command

    command.show(folder, name, console(json))


def doctor(json: Json = False) -> None:
    """Versions, devices, disk, and what optional parts are missing."""
    from tuner.cli import doctor as report

    where = console(json)
    found = report.report()
    where.event("doctor", **found)
    where.table(("", ""), report.rows(found))
    for problem in found["problems"]:
        where.warn(problem)
