"""Files bundled with the program, by name; shared by `tuner recipes` and `tuner templates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import RecipeError
from tuner.recipe import bundled
from tuner.recipe.bundled import Kind
from tuner.schema.suggest import suggestion

if TYPE_CHECKING:
    from tuner.console.console import Console

_SINGULAR: dict[Kind, str] = {"recipes": "recipe", "data_templates": "data template"}


def show_text(kind: Kind, name: str, console: Console) -> None:
    """Show the text of one bundled file."""
    text = named(kind, name).read_text("utf-8")
    if console.json:
        console.event(_SINGULAR[kind], name=name, text=text)
    else:
        console.document(text)


def named(kind: Kind, name: str) -> Path:
    """Return the bundled file of this name.

    Raises:
        RecipeError: there is none.
    """
    files = bundled.files(kind)
    if name not in files:
        raise RecipeError(
            f"there is no bundled {_SINGULAR[kind]} '{name}'",
            suggestion(name, files),
            f"see: tuner {kind.removeprefix('data_')} list",
        )
    return files[name]
