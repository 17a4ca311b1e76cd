"""The commands for what training leaves: look at it, export, verify, chat with it, serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.options import ForceBase, Json, Quiet, Verbose, console

AnyBase = Annotated[
    str | None,
    typer.Option("--base", metavar="BASE", help="Alias, Hub id, model folder or .gguf file."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program's."""
    for command in (inspect, export, verify, chat, serve):
        app.command(rich_help_panel="Use what was trained")(command)


def inspect(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_ADAPTER", help="Its folder.")],
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """What is in an adapter: size and rank of its updates, what never moved."""
    from tuner.cli import inspect as inspect_command

    inspect_command.show(path, console(json, False, verbose))


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
    from tuner.cli import export as export_command

    where = console(json, quiet, verbose)
    if list_formats:
        export_command.list_formats(where)
        return
    given = (run, formats or (), output, base, force_base, onto, max_kl, portable)
    several = (adapters, weights, combination, density, check)
    export_command.export(export_command.Request(*given, *several), where)


def verify(
    path: Annotated[str, typer.Argument(metavar="PATH", help="An artefact's or a run's folder.")],
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="Of an adapter, if not found.")
    ] = None,
    force_base: ForceBase = False,
    json: Json = False,
) -> None:
    """Whether an artefact is still what was proven when it was written."""
    from tuner.cli import export as export_command

    export_command.verify(path, base, force_base, console(json))


def chat(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's folder.")] = None,
    base: AnyBase = None,
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
    from tuner.cli import chat as chat_command
    from tuner.inference.chat import Settings

    settings = Settings(max_new_tokens, temperature, top_k, top_p)
    given = (run, base, adapter or (), system, settings, seed, force_base)
    chat_command.chat(chat_command.Request(*given), console(json))


def serve(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Runs of one base.")
    ] = None,
    base: AnyBase = None,
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
    from tuner.cli import serve as serve_command
    from tuner.inference.serve.admission import Limits

    limits = Limits(max_queue, max_new_tokens, max_request_bytes, time_limit, temperature)
    given = (runs or (), base, adapter or (), host, port, api_key, limits, allow_anyone, force_base)
    serve_command.serve(serve_command.Request(*given), console(json, quiet, verbose))
