"""The command line: options, exit codes, and the one place where errors end.

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

from tuner import __version__, heap
from tuner.verbs import VERBS, Verb

if TYPE_CHECKING:
    from tuner.console import Console
    from tuner.errors import TunerError

# What typer raises for wrong usage: `BadParameter`'s base, whichever click is underneath.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# Typer turns Ctrl-C into this code, silently.
INTERRUPTED = 128 + signal.SIGINT

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


def _group(help: str) -> typer.Typer:
    return typer.Typer(
        help=help,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=_SETTINGS,
    )


app = _group("Fine-tune language models parameter-efficiently, from a recipe.")
data = _group("Look at the data as the model will see it.")
recipes = _group("Recipes that come with the program.")
templates = _group("Data templates that come with the program.")
runs = _group("Runs and their records.")


def _console(json: bool = False, quiet: bool = False, verbose: bool = False) -> Console:
    from tuner import ranks
    from tuner.console import Console

    return Console(json, quiet, verbose, muted=not ranks.place().main)


def _version(asked: bool) -> None:
    if asked:
        _console().document(f"tuner {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _add(row: Verb) -> None:
    """The command of one row of the verbs table; all have the same options."""

    @app.command(row.name, help=row.summary)
    def command(
        recipe: Recipe,
        overrides: Overrides = None,
        output: Output = None,
        resume: Resume = False,
        dry_run: DryRun = False,
        rehearse: Rehearse = False,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        from tuner.commands import train

        console, mode = _console(json, quiet, verbose), train.mode(dry_run, rehearse)
        train.train(row.name, recipe, overrides or (), output, resume, mode, console)


for _row in VERBS.values():
    _add(_row)


@app.command()
def plan(
    recipe: Recipe,
    verb: Annotated[
        str | None, typer.Option("--verb", help="As this command would run it.")
    ] = None,
    overrides: Overrides = None,
    output: Output = None,
    resume: Resume = False,
    rehearse: Rehearse = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a recipe comes to; only with --rehearse a model is loaded."""
    from tuner.commands import train

    if verb not in (None, *VERBS):
        raise typer.BadParameter(f"one of {', '.join(VERBS)}", param_hint="--verb")
    console, mode = _console(json, quiet, verbose), train.mode(not rehearse, rehearse)
    train.train(verb, recipe, overrides or (), output, resume, mode, console)


@app.command()
def compare(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the runs that are done, go on with the rest.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train several methods on the same data at equal budget; one table, one plot."""
    from tuner.commands import compare as command

    console = _console(json, quiet, verbose)
    command.compare(recipe, overrides or (), output, resume, dry_run, console)


@app.command()
def sweep(
    recipe: Recipe,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=V,V", help="As method.r=4,8,16. Repeatable."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="DIR", help="Default runs/<recipe name>-sweep."),
    ] = None,
    verb: Annotated[
        str | None, typer.Option("--verb", help="The training command of the trials.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What sorts the table; default: held-out loss.")
    ] = None,
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Of a Ray cluster, or auto.")
    ] = "",
    cpus: Annotated[
        int | None,
        typer.Option("--cpus", min=1, help="Processors of a trial; default: all, 1 with a GPU."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="GPUs of a trial; default: 1 if there are.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and show the trials and stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe with every combination of some values, by Ray Tune; the best first."""
    from tuner.commands import sweep as command

    if verb not in (None, *VERBS):
        raise typer.BadParameter(f"one of {', '.join(VERBS)}", param_hint="--verb")
    given = (recipe, verb, overrides or (), output, metric, address, cpus, gpus, dry_run)
    command.sweep(command.Request(*given), _console(json, quiet, verbose))


@data.command("preview")
def data_preview(
    recipe: Recipe,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many rows.")] = 3,
    overrides: Overrides = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show rendered rows with the supervised spans marked."""
    from tuner.commands import preview

    preview.preview(recipe, overrides or (), rows, _console(json, False, verbose))


@recipes.command("list")
def recipes_list(json: Json = False) -> None:
    """Name and purpose of each recipe."""
    from tuner.commands import library

    library.list_recipes(_console(json))


@recipes.command("show")
def recipes_show(name: str, json: Json = False) -> None:
    """The text of a recipe."""
    from tuner.commands import library

    library.show("recipes", name, _console(json))


@recipes.command("copy")
def recipes_copy(
    name: str,
    destination: Annotated[Path, typer.Argument(help="A folder, or the new file's name.")] = Path(),
    json: Json = False,
) -> None:
    """Copy a recipe and its sample data; nothing is overwritten."""
    from tuner.commands import library

    library.copy(name, destination, _console(json))


@recipes.command("schema")
def recipes_schema(json: Json = False) -> None:
    """The JSON Schema of a recipe, for editors."""
    from tuner.commands import library

    library.schema(_console(json))


@templates.command("list")
def templates_list(json: Json = False) -> None:
    """Name and purpose of each data template."""
    from tuner.commands import library

    library.list_templates(_console(json))


@templates.command("show")
def templates_show(name: str, json: Json = False) -> None:
    """The text of a data template."""
    from tuner.commands import library

    library.show("data_templates", name, _console(json))


@runs.command("list")
def runs_list(folder: RunsFolder = Path("runs"), json: Json = False) -> None:
    """Status and scores of each run."""
    from tuner.commands import runs as command

    command.show_list(folder, _console(json))


@runs.command("show")
def runs_show(name: str, folder: RunsFolder = Path("runs"), json: Json = False) -> None:
    """The record of one run."""
    from tuner.commands import runs as command

    command.show(folder, name, _console(json))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_ADAPTER", help="Its folder.")],
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """What is in an adapter: size and rank of its updates, what never moved."""
    from tuner.commands import inspect as command

    command.show(path, _console(json, False, verbose))


@app.command()
def export(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's folder.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="NAME", help="What to write. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Default: the run's folder.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="If its record names none.")
    ] = None,
    force_base: ForceBase = False,
    onto: Annotated[
        str,
        typer.Option("--onto", help="Of a quantized run: auto, dequantized or original weights."),
    ] = "auto",
    max_kl: Annotated[
        float | None, typer.Option("--max-kl", min=0.0, help="In place of the format's limit.")
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="An rsLoRA as plain LoRA that all runtimes read.")
    ] = False,
    adapters: Annotated[
        str | None,
        typer.Option("--adapters", metavar="A,B", help="Runs whose adapters are combined."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="W,W", help="One for each; default: equal.")
    ] = None,
    combination: Annotated[
        str, typer.Option("--combination", help="linear, ties, dare or svd.")
    ] = "linear",
    density: Annotated[
        float, typer.Option("--density", help="Share that ties and dare keep.")
    ] = 0.5,
    check: Annotated[
        str | None, typer.Option("--check", metavar="vllm", help="Can it load the adapter?")
    ] = None,
    list_formats: Annotated[
        bool, typer.Option("--formats", help="Show what there is and stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a finished run in other formats, each proven equal before it is named."""
    from tuner.commands import export as command

    console = _console(json, quiet, verbose)
    if list_formats:
        command.list_formats(console)
        return
    given = (run, formats or (), output, base, force_base, onto, max_kl, portable)
    several = (adapters, weights, combination, density, check)
    command.export(command.Request(*given, *several), console)


@app.command()
def verify(
    path: Annotated[str, typer.Argument(metavar="PATH", help="An artefact's or a run's folder.")],
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="Of an adapter, if not found.")
    ] = None,
    force_base: ForceBase = False,
    json: Json = False,
) -> None:
    """Whether an artefact is still what was proven when it was written."""
    from tuner.commands import export as command

    command.verify(path, base, force_base, _console(json))


@app.command()
def chat(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's folder.")] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="BASE", help="Alias, Hub id, model folder or .gguf file."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="PATH", help="A run's or adapter's folder. Repeatable."),
    ] = None,
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="The system turn.")] = "",
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest answer in tokens.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0: always the likeliest token.")
    ] = 0.0,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="N", min=0, help="Draw from the N likeliest; 0: from all."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", min=0.0, max=1.0, help="Draw from this probability."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seeds what is drawn.")] = 42,
    force_base: ForceBase = False,
    json: Json = False,
) -> None:
    """Talk to a run, or to a base with adapters; reads questions from a pipe, too."""
    from tuner.chat import Settings
    from tuner.commands import chat as command

    settings = Settings(max_new_tokens, temperature, top_k, top_p)
    given = (run, base, adapter or (), system, settings, seed, force_base)
    command.chat(command.Request(*given), _console(json))


@app.command()
def serve(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Runs of one base.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="BASE", help="Alias, Hub id, model folder or .gguf file."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME=PATH", help="A further one. Repeatable."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes a free one and tells it.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", metavar="KEY", help="Better in TUNER_API_KEY: others see this."),
    ] = None,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=0, metavar="N", help="Requests that may wait.")
    ] = 16,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, metavar="N", help="Longest answer in tokens.")
    ] = 1024,
    max_request_bytes: Annotated[
        int, typer.Option("--max-request-bytes", min=1, metavar="N", help="Longest request.")
    ] = 1 << 20,
    time_limit: Annotated[
        float, typer.Option("--time-limit", metavar="SECONDS", help="Of a request, with its wait.")
    ] = 120.0,
    temperature: Annotated[
        float,
        typer.Option("--temperature", min=0.0, max=2.0, help="Of requests that name none."),
    ] = 1.0,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Listen beyond this machine without a key.")
    ] = False,
    force_base: Annotated[
        bool, typer.Option("--force-base", help="Though an adapter is of another base.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Serve runs, each a model name on one base, by OpenAI's protocol."""
    from tuner.commands import serve as command
    from tuner.serve.desk import Limits

    limits = Limits(max_queue, max_new_tokens, max_request_bytes, time_limit, temperature)
    given = (runs or (), base, adapter or (), host, port, api_key, limits, allow_anyone, force_base)
    command.serve(command.Request(*given), _console(json, quiet, verbose))


@app.command()
def doctor(json: Json = False) -> None:
    """Versions, devices, disk, and what optional parts are missing."""
    from tuner import doctor as report

    console = _console(json)
    found = report.report()
    console.event("doctor", **found)
    console.table(("", ""), report.rows(found))
    for problem in found["problems"]:
        console.warn(problem)


for _name, _sub in (
    ("data", data),
    ("recipes", recipes),
    ("templates", templates),
    ("runs", runs),
):
    app.add_typer(_sub, name=_name)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The `tuner` command: run it and exit with its code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    _prepare_streams()
    heap.align_large_blocks()
    # They announce on import which kernels they cannot load or would like to download.
    for library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
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
            _console().document(str(error) + "\n")
            return 2
        failure = RecipeError(*_usage(error))
    except SystemExit:
        # Typer's only exit of its own in this mode: the reader of our output went away (`| head`).
        return 128 + signal.SIGPIPE
    except Exception as error:
        failure = _bug(error)
    if not failure.told:
        _console(**flags).error(failure)
    return failure.exit_code


def _prepare_streams() -> None:
    """No crash on a terminal that cannot encode a character; progress bars on terminals only.

    And nothing is told to anybody about what is run: trl would tell the Hub.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _usage(error: Exception) -> tuple[str, str, str]:
    """What was wrong with the command line, how the command is used, where its help is."""
    message = str(getattr(error, "format_message", error.__str__)())
    context = getattr(error, "ctx", None)
    usage = context.get_usage().strip() if context else "Usage: tuner COMMAND [ARGS]..."
    command = context.command_path if context else "tuner"
    return message.strip().replace("\n", " "), usage, f"see: {command} --help"


def _bug(error: Exception) -> TunerError:
    """An exception that nobody foresaw, as the error that the user sees."""
    from tuner.errors import TunerError

    last = traceback.extract_tb(error.__traceback__)[-1]
    failure = TunerError(
        f"a bug in tuner: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
        f"in {last.name}, {Path(last.filename).name}:{last.lineno}",
        "report it with the output of the same command and --verbose",
    )
    failure.__cause__ = error
    return failure
