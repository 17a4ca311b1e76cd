"""Options that commands share, and helpers to define commands."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.recipe.verbs import VERBS

if TYPE_CHECKING:
    from tuner.console.console import Console

# The variable with which a shell asks for completions.
COMPLETE = "_TUNER_COMPLETE"


def _recipe_names(incomplete: str) -> list[str]:
    """Return recipe files that start with what is typed, and names of bundled recipes."""
    from tuner.recipe import bundled

    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    paths = [
        f"{path}/" if path.is_dir() else str(path)
        for path in found
        if path.is_dir() or path.suffix in (".yaml", ".yml")
    ]
    return [name for name in (*paths, *bundled.files("recipes")) if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="Recipe file, or name of a bundled recipe.",
        autocompletion=_recipe_names,
        show_default=False,
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="PATH",
        help="The recipe, as an option.",
        autocompletion=_recipe_names,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: train.epochs=1. Repeatable."),
]
Output = Annotated[
    str | None,
    typer.Option("--output", metavar="DIR", help="Run folder; default: runs/<recipe name>."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue from the newest intact checkpoint in the folder; start if there is none.",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Train the adapter of this run or folder further; without a recipe, by its own.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
Rehearse = Annotated[
    bool,
    typer.Option("--rehearse", help="Try every part on 3 steps, report time and memory, stop."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line to stdout.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Show only warnings, errors and the last line.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show every value, and tracebacks with errors.")
]
AnyBase = Annotated[
    str | None,
    typer.Option("--base", metavar="BASE", help="Base model: alias, Hub id, folder or .gguf file."),
]
BaseOfAdapter = Annotated[
    str | None,
    typer.Option("--base", metavar="BASE", help="Base model of an adapter, if it is not found."),
]
ForceBase = Annotated[
    bool,
    typer.Option("--force-base", help="Use the adapter even if it was trained on another base."),
]
Step = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="N|best|last",
        help="Use a checkpoint of the run: that of a step, the best or the last one.",
    ),
]
RunsFolder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Folder with the runs.")]

# Panels of the help.
TRAIN, USE, LOOK = "Train", "Use what was trained", "Show information"
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def begin_from(
    command: str,
    argument: str | None,
    option: str | None,
    overrides: list[str] | None,
    start: str | None,
) -> tuple[str, list[str]]:
    """Return the recipe and its overrides, those of `--from` included.

    Raises:
        RecipeError: no recipe or two are given, or there is nothing to start from.
    """
    given = [*(overrides or ())]
    if start is None:
        return one_recipe(command, argument, option), given
    from tuner.cli import start_from

    both = argument is not None and option is not None
    named = one_recipe(command, argument, option) if both else argument or option
    return start_from.begin(start, named, given, command)


def one_recipe(command: str, argument: str | None, option: str | None) -> str:
    """Return the recipe, given either as an argument or by `--recipe`.

    Raises:
        RecipeError: it is given twice or not at all.
    """
    if argument is None and option is None:
        what, why = "no recipe is given", "a recipe is a file, or the name of a bundled recipe"
    elif argument is not None and option is not None:
        what, why = "the recipe is given twice", f"RECIPE is {argument}, and --recipe {option}"
    else:
        return str(argument if option is None else option)
    from tuner.errors import RecipeError

    raise RecipeError(what, why, f"tuner {command} RECIPE, or tuner {command} --recipe RECIPE")


def refuse_unknown_verb(verb: str | None) -> None:
    """Refuse a value of `--verb` that is not a training command.

    Raises:
        BadParameter: with the valid ones.
    """
    if verb not in (None, *VERBS):
        raise typer.BadParameter(f"one of {', '.join(VERBS)}", param_hint="--verb")


def write_new(path: Path, text: str, option: str) -> None:
    """Write a new file.

    Args:
        path: of the file.
        text: what is written.
        option: that names it, for messages.

    Raises:
        RecipeError: the file is there already, or cannot be written.
    """
    from tuner.errors import RecipeError

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError(f"{option}: {path} is there already", fix="choose another name") from None
    except OSError as error:
        raise RecipeError(
            f"{option}: {path} cannot be written", error.strerror or "", "choose another place"
        ) from None


def group(help: str, add_completion: bool = False, epilog: str | None = None) -> typer.Typer:
    """Return a command that has subcommands."""
    return typer.Typer(
        help=help,
        epilog=epilog,
        add_completion=add_completion,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=_SETTINGS,
    )


def console(json: bool = False, quiet: bool = False, verbose: bool = False) -> Console:
    """Return the console of a command; it is muted in all processes of a run except the first."""
    from tuner.console.console import Console
    from tuner.machine import ranks

    return Console(json, quiet, verbose, muted=not ranks.place().main)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Redirect what libraries print, and ignore their warnings: stdout is the console's."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tuner.model import transformers_errors

        transformers_errors.quiet_libraries()
        yield
