"""The command line: the program, exit codes, and the one place where errors end.

Only typer and the standard library are imported here (and the table of verbs), so that help answers
at once; what a command does is imported when it runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tuner import __version__, errors
from tuner.cli import (
    chat,
    compare,
    data,
    doctor,
    export,
    help,
    inspect,
    other_words,
    predict,
    recipes,
    runs,
    serve,
    sweep,
    templates,
    train,
    verify,
)
from tuner.cli.options import LOOK, TRAIN, USE, console, group
from tuner.machine import heap, name_table, threads, waiting

if TYPE_CHECKING:
    from tuner.errors import TunerError

# The error that typer raises for wrong usage: `BadParameter`'s base, whichever click it uses.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# Typer turns Ctrl-C into this code, silently.
INTERRUPTED = 128 + signal.SIGINT

app = group(
    "Fine-tune language models parameter-efficiently, from a recipe.",
    add_completion=True,
    epilog=errors.exit_codes(),
)


def _version(asked: bool) -> None:
    if asked:
        console().document(f"tuner {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


train.register(app)
for _panel, _commands in (
    (TRAIN, (train.plan, compare.compare, sweep.sweep)),
    (
        USE,
        (
            *(inspect.inspect, export.export, verify.verify),
            *(chat.chat, predict.predict, serve.serve),
        ),
    ),
    (LOOK, (doctor.doctor,)),
):
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
for _name, _group in (
    ("data", data.app),
    ("recipes", recipes.app),
    ("templates", templates.app),
    ("runs", runs.app),
):
    app.add_typer(_group, name=_name, rich_help_panel=LOOK)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the `tuner` command and exit with its code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    _prepare_streams()
    heap.leave_fewer_holes()
    threads.choose()
    waiting.begin()
    name_table.keep()
    # On import they log which kernels they cannot load or would download.
    for library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
    help.prepare(given)
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    from tuner.errors import Interrupted, RecipeError, TunerError

    failure: TunerError
    flags = {"json": "--json" in arguments, "verbose": "--verbose" in arguments}
    try:
        code = app(arguments, prog_name="tuner", standalone_mode=False) or 0
        if code != INTERRUPTED:
            return int(code)
        failure = Interrupted(signal.SIGINT, "stopped by Ctrl-C")
    except TunerError as error:
        failure = error
    except (KeyboardInterrupt, typer.Abort):
        failure = Interrupted(signal.SIGINT, "stopped by Ctrl-C")
    except UsageError as error:
        if not arguments or type(error).__name__ == "NoArgsIsHelpError":
            # Its help has been printed by then.
            return 2
        failure = RecipeError(*_usage(error))
    except SystemExit as end:
        # Typer exits in this mode only when a shell has its completions, or when the reader of
        # our output went away (`| head`).
        return 128 + signal.SIGPIPE if end.code else 0
    except Exception as error:
        failure = _out_of_memory(error) or _bug(error)
    if not failure.shown_already:
        console(**flags).error(failure)
    return failure.exit_code


def _prepare_streams() -> None:
    """Avoid crashes on characters a terminal cannot encode; show progress bars on terminals only.

    Also turn off telemetry: trl would send it to the Hub.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _usage(error: Exception) -> tuple[str, str, str]:
    """Return what was wrong with the command line, how the command is used, where its help is."""
    message = str(getattr(error, "format_message", error.__str__)())
    if said := other_words.answer(message):
        return said
    context = getattr(error, "ctx", None)
    usage = context.get_usage().strip() if context else "Usage: tuner COMMAND [ARGS]..."
    command = context.command_path if context else "tuner"
    return message.strip().replace("\n", " "), usage, f"see: {command} --help"


def _out_of_memory(error: Exception) -> TunerError | None:
    """Return a lack of memory outside a run as the error that the user sees; None: another."""
    from tuner.errors import ResourceError, first_line

    if isinstance(error, MemoryError) or "torch" in sys.modules:
        from tuner.run.out_of_memory import ran_out

        if ran_out(error):
            return ResourceError(
                "out of memory",
                first_line(error),
                "free memory (nvidia-smi shows which programs use a GPU), or use a smaller model",
            )
    return None


def _bug(error: Exception) -> TunerError:
    """Return an unexpected exception as the error that the user sees."""
    from tuner.errors import TunerError

    last = traceback.extract_tb(error.__traceback__)[-1]
    failure = TunerError(
        f"a bug in tuner: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
        f"in {last.name}, {Path(last.filename).name}:{last.lineno}",
        "report it, with the output of the same command run with --verbose",
    )
    failure.__cause__ = error
    return failure
