"""Options that commands share, and what a command is made with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tuner.console import Console

Recipe = Annotated[
    str, typer.Option("--recipe", metavar="PATH", help="Recipe file, or name of a bundled one.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key, as train.epochs=1. Repeatable."),
]
Output = Annotated[
    str | None,
    typer.Option("--output", metavar="DIR", help="The run folder; default runs/<recipe name>."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest intact checkpoint of the folder.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
Rehearse = Annotated[
    bool, typer.Option("--rehearse", help="Try all parts on 3 steps, tell time and memory, stop.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only warnings, errors and the last line.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Every value; tracebacks with errors.")]
ForceBase = Annotated[
    bool, typer.Option("--force-base", help="Though the adapter is of another base.")
]
RunsFolder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where the runs lie.")]

_SETTINGS = {"help_option_names": ["-h", "--help"]}


def group(help: str) -> typer.Typer:
    """A command that has commands."""
    return typer.Typer(
        help=help,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=_SETTINGS,
    )


def console(json: bool = False, quiet: bool = False, verbose: bool = False) -> Console:
    """Where a command speaks; silent in all processes of a run but the first."""
    from tuner import ranks
    from tuner.console import Console

    return Console(json, quiet, verbose, muted=not ranks.place().main)
