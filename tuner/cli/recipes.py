"""`tuner recipes`: the recipes that come with the program."""

from __future__ import annotations

import json as jsonlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.bundled import named, show_text
from tuner.cli.options import Json, console, group
from tuner.errors import RecipeError

if TYPE_CHECKING:
    from tuner.console.console import Console

app = group("Recipes that come with the program.")


@app.command("list")
def list_all(json: Json = False) -> None:
    """Name and purpose of each recipe."""
    from tuner.recipe import bundled

    where = console(json)
    lines = {name: bundled.opening(file) for name, file in bundled.files("recipes").items()}
    where.event("recipes", items=[{"name": k, "summary": text} for k, text in lines.items()])
    where.table(("recipe", "what it is"), list(lines.items()))


@app.command("show")
def show(name: str, json: Json = False) -> None:
    """The text of a recipe."""
    show_text("recipes", name, console(json))


@app.command("copy")
def recipes_copy(
    name: str,
    destination: Annotated[Path, typer.Argument(help="A folder, or the new file's name.")] = Path(),
    json: Json = False,
) -> None:
    """Copy a recipe and its sample data; nothing is overwritten."""
    copy(name, destination, console(json))


@app.command("schema")
def schema(json: Json = False) -> None:
    """The JSON Schema of a recipe, for editors."""
    from tuner.recipe.schema import json_schema

    indent = None if json else 2
    text = jsonlib.dumps(json_schema(), ensure_ascii=False, indent=indent)
    console(json).document(text + "\n")


def _same(origin: Path, target: Path) -> bool:
    return target.is_file() and target.read_bytes() == origin.read_bytes()


def copy(name: str, destination: Path, console: Console) -> None:
    """Copy a bundled recipe and the data files it names; overwrite nothing.

    Raises:
        RecipeError: no such recipe, or a file that is there already.
    """
    source = named("recipes", name)
    single = destination.suffix in (".yaml", ".yml")
    folder = destination.parent if single else destination
    copies = {source: destination if single else folder / source.name}
    for file in _files(source):
        copies[source.parent / file] = folder / file
    # Recipes share sample files: one that is there already, byte for byte, stays.
    kept = [str(target) for origin, target in copies.items() if _same(origin, target)]
    copies = {origin: target for origin, target in copies.items() if str(target) not in kept}
    there = [str(target) for target in copies.values() if target.exists() or target.is_symlink()]
    if there:
        raise RecipeError(
            f"{name} would overwrite {', '.join(there)}",
            "nothing was copied",
            "name another folder: tuner recipes copy NAME FOLDER",
        )
    for origin, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with origin.open("rb") as read, target.open("xb") as written:
            shutil.copyfileobj(read, written)
    console.event("copied", files=[str(target) for target in copies.values()], unchanged=kept)
    for target in copies.values():
        console.text(str(target))
    for name in kept:
        console.text(f"{name} (unchanged)")


def _files(source: Path) -> list[Path]:
    """The files beside a recipe that it reads, and those of the recipes that it names."""
    from tuner.model.adapters.sources import RECIPES
    from tuner.recipe import load as recipe_load
    from tuner.recipe import paths

    recipe = recipe_load.load(source, verb=None).recipe
    named = [each for each in paths.named(recipe) if each.kind != "base"]
    files = [each.path for each in named]
    found = [file for file in files if not file.is_absolute() and (source.parent / file).is_file()]
    for file in list(found):
        if file.suffix in RECIPES and file != Path(str(recipe.data.template)):
            found += _files(source.parent / file)
    return list(dict.fromkeys(found))
