"""`serve`: runs, or a base with adapters, behind OpenAI's protocol."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from tuner.console.console import Console
from tuner.errors import Interrupted, ModelError, RecipeError, SafetyError
from tuner.inference import open_model
from tuner.inference.serve.admission import Limits
from tuner.machine import hardware, packages

KEY_VARIABLE = "TUNER_API_KEY"
_NEEDED = ("fastapi", "uvicorn")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    runs: Sequence[str] = ()
    base: str | None = None
    adapters: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    allow_anyone: bool = False
    force_base: bool = False


def serve(request: Request, console: Console) -> None:
    """Open the model and answer until a signal comes.

    Raises:
        Interrupted: a signal came; what was asked before is answered, if there was only one.
        RecipeError: the options contradict each other.
        ModelError: a package is missing.
        SafetyError: anyone could ask from elsewhere.
        TunerError: the model cannot be opened, or the address is taken.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            "tuner serve needs a part that is not installed",
            f"{', '.join(missing)}: not found",
            packages.add("uvicorn"),
        )
    key = _key(request.api_key)
    present = hardware.detect()
    first = request.runs[0] if request.runs else None
    adapters = [*request.runs[1:], *request.adapters]
    source = open_model.find(first, request.base, adapters, present, "serve")
    # What libraries print is not ours: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        from tuner.inference.serve import models, server

        address = server.resolve(request.host, request.port)
        if not address.loopback and key is None and not request.allow_anyone:
            raise SafetyError(
                f"anyone who reaches {request.host} could use the models",
                "it is not this machine alone, and there is no API key",
                f"set {KEY_VARIABLE}, or --allow-anyone if that is meant",
            )
        listener, url = server.listen(address)
        with listener:
            model = open_model.load(source, console, force_base=request.force_base)
            names = models.name_all(model, source.name)
            running = server.Server(model, names, request.limits, key, console)
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
