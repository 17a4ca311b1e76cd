"""`tuner serve`: runs, or a base with adapters, over the OpenAI API."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import sys
from typing import Annotated

import typer

from tuner.cli.options import AnyBase, Json, Quiet, Verbose, console
from tuner.errors import Interrupted, ModelError, RecipeError, SafetyError
from tuner.machine import packages

KEY_VARIABLE = "TUNER_API_KEY"
_NEEDED = ("fastapi", "uvicorn")


def serve(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Runs that share one base.")
    ] = None,
    base: AnyBase = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", metavar="NAME=PATH", help="Another adapter to serve. Repeatable."
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="Port; 0 picks a free one and prints it."),
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", metavar="KEY", help="Prefer TUNER_API_KEY: other users can see options."
        ),
    ] = None,
    max_queue: Annotated[
        int,
        typer.Option("--max-queue", min=0, metavar="N", help="Maximum number of waiting requests."),
    ] = 16,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, metavar="N", help="Maximum tokens per answer.")
    ] = 1024,
    max_request_bytes: Annotated[
        int,
        typer.Option("--max-request-bytes", min=1, metavar="N", help="Maximum size of a request."),
    ] = 1 << 20,
    time_limit: Annotated[
        float,
        typer.Option(
            "--time-limit", metavar="SECONDS", help="Seconds per request, queueing included."
        ),
    ] = 120.0,
    temperature: Annotated[
        float,
        typer.Option("--temperature", min=0.0, max=2.0, help="Default for requests that set none."),
    ] = 1.0,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Listen to other machines without an API key.")
    ] = False,
    force_base: Annotated[
        bool, typer.Option("--force-base", help="Use adapters even if trained on another base.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Serve runs that share one base over the OpenAI API, each as a model name."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            "tuner serve needs packages that are not installed",
            f"{', '.join(missing)}: not found",
            packages.add("uvicorn"),
        )
    from tuner.inference import open_model
    from tuner.inference.serve.admission import Limits
    from tuner.machine import hardware, imports

    key, where = _key(api_key), console(json, quiet, verbose)
    limits = Limits(max_queue, max_new_tokens, max_request_bytes, time_limit, temperature)
    first, others = (runs[0], runs[1:]) if runs else (None, [])
    adapters = [*others, *(adapter or ())]
    source = open_model.model_to_open(first, base, adapters, hardware.detect(), "serve")
    # Libraries print to stderr: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        with imports.importing():
            from tuner.inference import load as _  # noqa: F401  # all that opening needs
            from tuner.inference.serve import models, server

        address = server.resolve(host, port)
        if not address.loopback and key is None and not allow_anyone:
            raise SafetyError(
                f"anyone who reaches {host} could use the models",
                "other machines can connect, and there is no API key",
                f"set {KEY_VARIABLE}, or use --allow-anyone if that is intended",
            )
        listener, url = server.listen(address)
        with listener:
            model = open_model.load(source, where, force_base=force_base)
            names = models.name_all(model, source.name)
            running = server.Server(model, names, limits, key, where)
            running.run(listener, url, address)
    if running.signal is not None:
        raise Interrupted(running.signal, f"stopped by {signal.Signals(running.signal).name}")


def _key(given: str | None) -> str | None:
    """Return the API key from the option or the environment.

    Raises:
        RecipeError: it is empty, or not valid in a header.
    """
    key, where = given, "--api-key"
    if key is None:
        key, where = os.environ.get(KEY_VARIABLE), KEY_VARIABLE
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        why = "it is empty" if not key else "it contains spaces or characters that are not ASCII"
        raise RecipeError(
            f"{where} is not a valid API key",
            why,
            "use letters, digits and symbols, or leave it out",
        )
    return key
