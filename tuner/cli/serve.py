"""`tuner serve`: runs, or a base with adapters, behind OpenAI's protocol."""

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
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            "tuner serve needs a part that is not installed",
            f"{', '.join(missing)}: not found",
            packages.add("uvicorn"),
        )
    from tuner.inference import open_model
    from tuner.inference.serve.admission import Limits
    from tuner.machine import hardware

    key, where = _key(api_key), console(json, quiet, verbose)
    limits = Limits(max_queue, max_new_tokens, max_request_bytes, time_limit, temperature)
    first, others = (runs[0], runs[1:]) if runs else (None, [])
    adapters = [*others, *(adapter or ())]
    source = open_model.find(first, base, adapters, hardware.detect(), "serve")
    # What libraries print is not ours: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        from tuner.inference.serve import models, server

        address = server.resolve(host, port)
        if not address.loopback and key is None and not allow_anyone:
            raise SafetyError(
                f"anyone who reaches {host} could use the models",
                "it is not this machine alone, and there is no API key",
                f"set {KEY_VARIABLE}, or --allow-anyone if that is meant",
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
    """The API key of the option or the environment.

    Raises:
        RecipeError: it is empty, or cannot stand in a header.
    """
    key, where = given, "--api-key"
    if key is None:
        key, where = os.environ.get(KEY_VARIABLE), KEY_VARIABLE
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        why = "it is empty" if not key else "it holds spaces or characters that are not ASCII"
        raise RecipeError(
            f"{where} is no API key", why, "letters, digits and signs, or leave it out"
        )
    return key
