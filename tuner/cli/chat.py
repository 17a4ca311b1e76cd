"""`chat`: a conversation with a run, or with a base and adapters."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from tuner.console.console import Console
from tuner.errors import RecipeError
from tuner.inference import open_model
from tuner.inference.chat import Chat, Settings
from tuner.inference.prompts import Prompts
from tuner.machine import hardware


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    run: str | None = None
    base: str | None = None
    adapters: Sequence[str] = ()
    system: str = ""
    settings: Settings = field(default_factory=Settings)
    seed: int = 42
    force_base: bool = False


def chat(request: Request, console: Console) -> None:
    """Open the model, then read turns until the input ends."""
    if not math.isfinite(request.settings.temperature):
        raise RecipeError("--temperature is not a number", "", "0 or more; 0 is the likeliest")
    if request.settings.top_p is not None and not 0 < request.settings.top_p <= 1:
        raise RecipeError("--top-p is no share", "", "above 0, up to 1; 1 draws from all")
    if request.settings.temperature == 0 and (request.settings.top_k or request.settings.top_p):
        console.warn("--top-k and --top-p mean nothing at temperature 0: nothing is drawn")
    present = hardware.detect()
    source = open_model.find(request.run, request.base, request.adapters, present, "chat")
    # What libraries print is not ours: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        import torch

        model = open_model.load(source, console, force_base=request.force_base)
        torch.manual_seed(request.seed)
        plain = model.head.name == "sequence"
        prompts = Prompts(model.tokenizer, model.stops, plain=plain)
    if console.interactive:
        speaker = model.active or model.base.name
        console.text(f"{speaker} answers; /help shows the commands, /exit ends")
    Chat(model, prompts, request.settings, console, request.system).run()
