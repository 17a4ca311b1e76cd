"""`tuner recipes convert`: a configuration of another tool, as a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.options import Json, console, write_new
from tuner.errors import RecipeError

if TYPE_CHECKING:
    from tuner.recipe.convert.conversion import Conversion

_NEITHER = (
    "it has neither LLaMA-Factory's keys (model_name_or_path, stage ...) nor Axolotl's "
    "(base_model, datasets ...)"
)
_LOOK = "docs/other-tools.md has what is converted"


def recipes_convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML of LLaMA-Factory or Axolotl.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="PATH", help="Recipe to write; default: print it."),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", min=1, metavar="N", help="GPUs it was trained on; default: 1."),
    ] = None,
    json: Json = False,
) -> None:
    """Turn a YAML of LLaMA-Factory or Axolotl into a recipe, and list what is not in it."""
    from tuner.recipe.convert import write

    tool, made = converted(file, devices)
    text = write.text(made, tool, file.name)
    where = console(json)
    if output is not None:
        write_new(output, text, "--output")
    where.event(
        "converted",
        tool=tool,
        recipe=text,
        written=None if output is None else str(output),
        keys=made.keys,
        lost=[asdict(each) for each in made.lost],
        left_out=[asdict(each) for each in made.left_out],
    )
    if output is None:
        if not json:
            where.document(text)
        return
    for title, listed in write.titled(made):
        where.text("\n".join([title, *(f"  {line}" for line in listed), ""]))
    where.text(f"written     {output}: tuner plan --recipe {output}")


def converted(file: Path, devices: int | None) -> tuple[str, Conversion]:
    """Read and translate a configuration.

    Raises:
        RecipeError: it is of no tool that is known, trains what there is no recipe for, or has
            values that no recipe can have.
    """
    from tuner.recipe import load, source
    from tuner.recipe.convert.tools import read, recognise
    from tuner.recipe.convert.translate import translate
    from tuner.recipe.schema import sections

    if not file.is_file():
        raise RecipeError(f"there is no file {file}", fix="check the path")
    written, lines = source.parse(source.read(file), file)
    tree: dict[str, Any] = read(written)
    tool = recognise(tree)
    if tool is None:
        own = "data" in tree and set(tree) <= {*sections()}
        raise RecipeError(
            f"{file} is no configuration that can be converted",
            "it is a recipe" if own else _NEITHER,
            f"run: tuner plan --recipe {file}" if own else _LOOK,
        )
    made = translate(tree, tool, file.resolve().parent, devices)
    at = source.RecipeSource(
        str(file),
        {
            tuple(key.split(".")): lines[(name,)]
            for key, name in made.origins.items()
            if (name,) in lines
        },
    )
    problems = [
        f"{file}:{lines.get((each.name,), 1)}: {each.name}: {each.said}" for each in made.blocked
    ]
    if "data.train" not in made.keys:
        what = "it trains on nothing: runs are used by tuner chat RUN and tuner export RUN"
        problems.append(f"{file}:1: {what}")
    if problems:
        raise RecipeError(f"there is no recipe for {file}", problems=problems, fix=_LOOK)
    _, problems = load.validate(tree_of(made.keys), at)
    if problems:
        raise load.refused(file, problems)
    return tool.name, made


def tree_of(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's keys by section."""
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        section, dot, name = key.partition(".")
        own = tree.setdefault(section, {})
        if dot:
            own[name] = value
    return tree
