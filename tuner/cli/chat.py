"""`tuner chat`: a conversation with a run, or with a base and adapters."""

from __future__ import annotations

import contextlib
import math
import sys
from typing import Annotated

import typer

from tuner.cli.options import AnyBase, ForceBase, Json, console
from tuner.errors import RecipeError


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
    from tuner.inference import open_model
    from tuner.inference.chat import Chat, Settings
    from tuner.inference.prompts import Prompts
    from tuner.machine import hardware

    where = console(json)
    if not math.isfinite(temperature):
        raise RecipeError("--temperature is not a number", "", "0 or more; 0 is the likeliest")
    if top_p is not None and not 0 < top_p <= 1:
        raise RecipeError("--top-p is no share", "", "above 0, up to 1; 1 draws from all")
    if temperature == 0 and (top_k or top_p):
        where.warn("--top-k and --top-p mean nothing at temperature 0: nothing is drawn")
    source = open_model.find(run, base, adapter or (), hardware.detect(), "chat")
    # What libraries print is not ours: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        import torch

        model = open_model.load(source, where, force_base=force_base)
        torch.manual_seed(seed)
        plain = model.head.name == "sequence"
        prompts = Prompts(model.tokenizer, model.stops, plain=plain)
    if where.interactive:
        speaker = model.active or model.base.name
        where.text(f"{speaker} answers; /help shows the commands, /exit ends")
    settings = Settings(max_new_tokens, temperature, top_k, top_p)
    Chat(model, prompts, settings, where, system).run()
