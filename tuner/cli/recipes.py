"""`tuner recipes`: the bundled recipes."""

from __future__ import annotations

import json as jsonlib
import shutil
from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.bundled import named, show_text
from tuner.cli.convert import recipes_convert
from tuner.cli.options import Json, console, group
from tuner.errors import RecipeError

app = group("Show and copy bundled recipes; convert those of other tools.")
app.command("convert")(recipes_convert)


@app.command("list")
def list_all(json: Json = False) -> None:
    """List the bundled recipes with their purpose."""
    from tuner.recipe import bundled

    where = console(json)
    lines = {name: bundled.opening(file) for name, file in bundled.files("recipes").items()}
    where.event("recipes", items=[{"name": k, "summary": text} for k, text in lines.items()])
    where.table(("recipe", "what it is"), list(lines.items()))


@app.command("show")
def show(name: str, json: Json = False) -> None:
    """Show the text of a recipe."""
    show_text("recipes", name, console(json))


@app.command("copy")
def copy(
    name: str,
    destination: Annotated[Path, typer.Argument(help="Target folder or file.")] = Path(),
    json: Json = False,
) -> None:
    """Copy a recipe and its sample data; existing files are not overwritten."""
    where, source = console(json), named("recipes", name)
    single = destination.suffix in (".yaml", ".yml")
    folder = destination.parent if single else destination
    copies = {source: destination if single else folder / source.name}
    for file in _files(source):
        copies[source.parent / file] = folder / file
    # Recipes share sample files: an existing one with the same bytes is kept.
    kept = [str(target) for origin, target in copies.items() if _same(origin, target)]
    copies = {origin: target for origin, target in copies.items() if str(target) not in kept}
    there = [str(target) for target in copies.values() if target.exists() or target.is_symlink()]
    if there:
        raise RecipeError(
            f"{name} would overwrite {', '.join(there)}",
            "nothing was copied",
            "copy it to another folder: tuner recipes copy NAME FOLDER",
        )
    for origin, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with origin.open("rb") as read, target.open("xb") as written:
            shutil.copyfileobj(read, written)
    where.event("copied", files=[str(target) for target in copies.values()], unchanged=kept)
    for target in copies.values():
        where.text(str(target))
    for same in kept:
        where.text(f"{same} (unchanged)")
    recipe = destination if single else folder / source.name
    done = "" if copies else "nothing to copy: all of these files are there already; "
    where.text(f"{done}next: tuner plan {recipe}")


@app.command("schema")
def schema(json: Json = False) -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from tuner.recipe.json_schema import json_schema

    indent = None if json else 2
    text = jsonlib.dumps(json_schema(), ensure_ascii=False, indent=indent)
    console(json).document(text + "\n")


def _same(origin: Path, target: Path) -> bool:
    return target.is_file() and target.read_bytes() == origin.read_bytes()


def _files(source: Path) -> list[Path]:
    """Return the files next to a recipe that it reads, and those of the recipes it names."""
    from tuner.model.adapters.saved_models import RECIPES
    from tuner.recipe import load as recipe_load
    from tuner.recipe import paths

    recipe = recipe_load.load(source, verb=None).recipe
    named = [each for each in paths.named(recipe) if each.kind != "base"]
    files = [each.path for each in named]
    found = [file for file in files if not file.is_absolute() and (source.parent / file).is_file()]
    for each in named:
        if each.kind == "adapter" and each.path in found and each.path.suffix in RECIPES:
            found += _files(source.parent / each.path)
    return list(dict.fromkeys(found))
