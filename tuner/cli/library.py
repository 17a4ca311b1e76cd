"""`recipes` and `templates`: what comes with the program."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from tuner.console.console import Console
from tuner.errors import RecipeError
from tuner.model.adapters.sources import RECIPES
from tuner.recipe import bundled
from tuner.recipe import load as recipe_load
from tuner.recipe.bundled import Kind
from tuner.recipe.schema import json_schema
from tuner.rewards.options import FunctionReward, ModelReward
from tuner.schema.suggest import suggestion

_SINGULAR = {"recipes": "recipe", "data_templates": "data template"}


def list_recipes(console: Console) -> None:
    """Name and first line of each bundled recipe."""
    lines = {name: bundled.opening(file) for name, file in bundled.files("recipes").items()}
    console.event("recipes", items=[{"name": k, "summary": text} for k, text in lines.items()])
    console.table(("recipe", "what it is"), list(lines.items()))


def list_templates(console: Console) -> None:
    """Name, columns and description of each bundled data template."""
    from tuner.data.template import list_templates

    found = list_templates()
    console.event("templates", items=[asdict(template) for template in found])
    rows = [(each.name, ", ".join(each.columns), each.description) for each in found]
    console.table(("template", "columns", "what it is"), rows)


def show(kind: Kind, name: str, console: Console) -> None:
    """The text of one bundled file."""
    text = _named(kind, name).read_text("utf-8")
    if console.json:
        console.event(_SINGULAR[kind], name=name, text=text)
    else:
        console.document(text)


def schema(console: Console) -> None:
    """The JSON Schema of a recipe; one line with `json`."""
    if console.json:
        console.document(json.dumps(json_schema(), ensure_ascii=False) + "\n")
    else:
        console.document(json.dumps(json_schema(), ensure_ascii=False, indent=2) + "\n")


def _same(origin: Path, target: Path) -> bool:
    return target.is_file() and target.read_bytes() == origin.read_bytes()


def copy(name: str, destination: Path, console: Console) -> None:
    """Copy a bundled recipe and the data files it names; overwrite nothing.

    Raises:
        RecipeError: no such recipe, or a file that is there already.
    """
    source = _named("recipes", name)
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


def _named(kind: Kind, name: str) -> Path:
    files = bundled.files(kind)
    if name not in files:
        raise RecipeError(
            f"there is no bundled {_SINGULAR[kind]} '{name}'",
            suggestion(name, files),
            f"see: tuner {kind.removeprefix('data_')} list",
        )
    return files[name]


def _files(source: Path) -> list[Path]:
    """The files beside a recipe that it reads, and those of the recipes that it names."""
    recipe = recipe_load.load(source, verb=None).recipe
    named: list[str | float | None] = [
        *recipe.data.train,
        recipe.data.eval,
        recipe.data.template,
    ]
    if recipe.rlhf is not None:
        named.append(recipe.rlhf.policy)
        for part in recipe.rlhf.reward:
            named += [part.model] if isinstance(part, ModelReward) else []
            if isinstance(part, FunctionReward):
                named.append(part.function.rpartition(":")[0])
    if recipe.ppo is not None:
        named.append(recipe.ppo.ptx_data)
    files = [Path(name) for name in named if isinstance(name, str)]
    found = [file for file in files if not file.is_absolute() and (source.parent / file).is_file()]
    for file in list(found):
        if file.suffix in RECIPES and file != Path(str(recipe.data.template)):
            found += _files(source.parent / file)
    return list(dict.fromkeys(found))
