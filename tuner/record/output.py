"""Which folder a run may write into."""

from __future__ import annotations

import json
from pathlib import Path

from tuner.errors import RecipeError, SafetyError
from tuner.record.run_json import LOCK, LOG, RUN, is_ours

# What a run killed before its first record may leave.
LEFTOVERS = {LOCK, LOG, f".{RUN}.tmp"}


def resolve_output(path: Path, *, from_recipe: bool) -> Path:
    """Return the folder that a run will use: absolute, links resolved.

    Raises:
        SafetyError: a relative path in a recipe leaves the current directory through `..`.
    """
    resolved = path.resolve()
    leaves = ".." in path.parts and not resolved.is_relative_to(Path.cwd().resolve())
    if from_recipe and leaves and not path.is_absolute():
        raise SafetyError(
            f"run.output leaves the current directory: {path}",
            f"it would write in {resolved}",
            "give the folder on the command line, with --output, if that is what you want",
        )
    return resolved


def refuse_file(path: Path) -> None:
    """Refuse what is no folder, or leads through something that is none.

    Raises:
        RecipeError: names it.
    """
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir():
        raise RecipeError(
            f"{path} cannot be a run's folder: {there} is a file",
            "a run writes a folder",
            "choose another folder with --output",
        )


def refuse_foreign(path: Path) -> None:
    """Refuse a folder that is not empty and holds no run, and a file.

    Raises:
        RecipeError: names what it holds.
    """
    refuse_file(path)
    if not path.is_dir():
        return
    entries = {entry.name for entry in path.iterdir()}
    if RUN in entries:
        try:
            foreign = not is_ours(json.loads((path / RUN).read_bytes()))
        except (ValueError, RecursionError):
            foreign = False
    else:
        foreign = not entries <= LEFTOVERS
    if foreign:
        names = ", ".join(sorted(entries)[:3])
        raise RecipeError(
            f"{path} is not empty and holds no run",
            f"it holds {names}{', ...' if len(entries) > 3 else ''}",
            "choose another folder with --output",
        )
