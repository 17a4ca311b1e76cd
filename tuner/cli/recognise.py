"""`tuner data recognise`: what a file is taken for, and a recipe that reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.options import Json, console, write_new
from tuner.errors import DataError, RecipeError, TunerError

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.data.columns.ways import Alternative, Line
    from tuner.data.look import Look


def data_recognise(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File with training rows.")],
    take: Annotated[
        int | None,
        typer.Option("--take", min=1, metavar="N", help="Number of the way to write."),
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="PATH", help="Write a recipe that reads it.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", metavar="NAME", help="Of its text: gb18030, ...")
    ] = None,
    separator: Annotated[
        str | None, typer.Option("--separator", metavar="TEXT", help="Of a table: ';' or tab.")
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option("--header/--no-header", help="Whether a table's first row names its columns."),
    ] = None,
    json: Json = False,
) -> None:
    """Say what a file is taken for, and how else it can be read, without a recipe or a base."""
    from tuner.data.columns.ways import Alternative, given_keys, written_keys
    from tuner.data.look import refusal
    from tuner.recipe.schema_source import SourceSection

    where = console(json)
    keys = _keys(encoding=encoding, separator=separator, header=header)
    try:
        found = _looked(file, keys)
    except DataError as error:
        raise _with_options(error, keys) from None
    source = SourceSection(source=str(file), **keys)
    ways = found.choices(given_keys(source, "data.train", 1))
    way = _taken(ways, found, take, write)
    text = None
    if way is not None and write is not None:
        text = _recipe(file, write, way, found, written_keys(source))
    _show(found, ways, where, given_keys(source, "data.train", 1))
    if text is not None and write is not None:
        write_new(write, text, "--write")
        _say_written(write, ways, take or 1, where)
        if isinstance(way, Alternative) and (stops := refusal(file, Path(), keys, way)):
            where.event("stops", error=stops.as_dict())
            where.text(f"\nThe plan of {write} will stop:\n{stops}")
    elif found.error is not None and not found.sure:
        raise _unwritten(_with_options(found.error, keys), write, len(ways))


def _keys(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _looked(file: Path, keys: Mapping[str, Any]) -> Look:
    """Look at a file.

    Raises:
        RecipeError: a key has a value that it cannot have.
    """
    from pydantic import ValidationError

    from tuner.data.look import look

    try:
        return look(file, Path(), keys)
    except ValidationError as error:
        name, why = error.errors()[0]["loc"][-1], error.errors()[0]["msg"]
        raise RecipeError(f"--{name}: {keys[str(name)]}", why, "correct it") from None


def _with_options(error: TunerError, keys: Mapping[str, Any]) -> TunerError:
    """The error with the options of this command that say the same as the keys in its fix."""
    found = re.findall(r"\b(encoding|separator|header): (\"[^\"]*\"|[^,}\s]+)", error.fix)
    words = {"true": "--header", "false": "--no-header", '"\\t"': "--separator tab"}
    options = [
        words.get(value, f"--{key} {value}")
        for key, value in dict.fromkeys(found)
        if key not in keys
    ]
    if options:
        error.fix += f"\nfor this command: {' or '.join(options)}"
    return error


def _unwritten(error: TunerError, write: Path | None, count: int) -> TunerError:
    """The error with what became of the file that was to be written."""
    if write is not None:
        more = f": --take N writes way N (1 to {count})" if count else ""
        error.fix += f"\n{write} was not written, since nothing says which way it is{more}"
    return error


def _say_written(
    write: Path, ways: Sequence[Alternative | Line], number: int, console: Console
) -> None:
    """Say which way was written, since there may be others."""
    task, count = ways[number - 1].task, len(ways)
    console.event("written", path=str(write), way=number)
    others = f" of {count} (--take N writes another)" if count > 1 else ""
    console.text(f"\nwritten     {write}: way {number}{others}, {task}")
    console.text(f"{'next':<12}tuner plan {write}")


def _taken(
    ways: Sequence[Alternative | Line], found: Look, take: int | None, write: Path | None
) -> Alternative | Line | None:
    """The way to write: what the file is taken for or, by its number, another one.

    Raises:
        RecipeError: there is no such number.
    """
    if take is not None and take > len(ways):
        raise RecipeError(
            f"--take {take}: the ways to read the file are numbered 1 to {len(ways)}",
            fix="see them: tuner data recognise FILE",
        )
    if write is None or (take is None and not found.sure):
        return None
    return ways[(take or 1) - 1]


def _show(
    found: Look,
    ways: Sequence[Alternative | Line],
    console: Console,
    given: Mapping[str, str],
) -> None:
    from tuner.console import formatting
    from tuner.data.columns.ways import recipe_line

    items: list[dict[str, Any]] = [
        {
            "task": way.task,
            "template": way.template.name,
            "columns": dict(way.columns),
            "recipe": way.line(given),
        }
        for way in found.ways
    ]
    refused = None if found.error is None or found.sure else found.error.what
    recipes = [way.line(given) for way in ways]
    said = {"understood": found.understood, "refused": refused, "ways": items, "recipes": recipes}
    console.event("recognised", **said)
    taken_for = found.understood or "nothing for sure"
    console.text(formatting.paragraph("understood", [taken_for]))
    if found.sure:
        console.text(f"{'recipe':<12}{recipe_line(given, {})}")
    for number, (way, recipe) in enumerate(zip(ways, recipes, strict=True), 1):
        console.text(f"\n{number}  {way.task}\n   {recipe}")


def _recipe(
    file: Path,
    write: Path,
    way: Alternative | Line,
    found: Look,
    keys: Mapping[str, str],
) -> str:
    from tuner.data.columns.ways import Line, flow
    from tuner.recipe.aliases import ALIASES

    there, here = file.resolve(), write.resolve().parent
    place = flow(str(there.relative_to(here) if there.is_relative_to(here) else there))
    source = place
    if keys:
        pairs = ", ".join(f"{name}: {value}" for name, value in keys.items())
        source = f"{{source: {source}, {pairs}}}"
    # Of several ways, the first is what was understood.
    known = found.sure and (isinstance(way, Line) or way is found.ways[0])
    head = [f"# {found.understood if known else way.task}", "model:"]
    head.append(f"  base: {next(iter(ALIASES))}")
    if isinstance(way, Line) and way.head:
        head.append("  task: classification")
    compares = found.compares or (isinstance(way, Line) and way.compares)
    method = ["method:", "  name: lora", *(["reward: {}"] if compares else []), ""]
    if isinstance(way, Line):
        return "\n".join([*head, way.recipe.replace(f" {flow(str(file))}", f" {place}"), *method])
    lines = [*head, "data:", f"  train: {source}", f"  template: {way.template.name}"]
    lines += [f"  {name}: {flow(value)}" for name, value in way.keys.items()]
    if way.columns:
        lines.append("  columns:")
        lines += [f"    {flow(name)}: {flow(column)}" for name, column in way.columns.items()]
    return "\n".join([*lines, *method])
