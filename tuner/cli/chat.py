"""`tuner chat`: a conversation with a run, or with a base and adapters."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.options import AnyBase, ForceBase, Json, Step, console
from tuner.errors import RecipeError

if TYPE_CHECKING:
    from tuner.data.chat.chat_template import ChatTemplate


def chat(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Run folder.")] = None,
    step: Step = None,
    base: AnyBase = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="PATH", help="Run or adapter folder. Repeatable."),
    ] = None,
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="System prompt.")] = "",
    chat_arguments: Annotated[
        list[str] | None,
        typer.Option(
            "--chat-argument",
            metavar="NAME=VALUE",
            help="Argument of the chat template, such as enable_thinking=false. Repeatable.",
        ),
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option(
            "--tools",
            metavar="FILE",
            help="JSON file of functions that the model may call; their results are typed.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Maximum tokens per answer.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="Sampling temperature; 0: greedy.")
    ] = 0.0,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", metavar="N", min=0, help="Sample from the N likeliest tokens; 0: all."
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", min=0.0, max=1.0, help="Nucleus sampling threshold."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed for sampling.")] = 42,
    lines: Annotated[
        bool,
        typer.Option(
            "--lines",
            help="Read a pipe as a terminal: a question or command per line, one conversation.",
        ),
    ] = False,
    generate: Annotated[
        bool,
        typer.Option("--generate", help="Write answers, even if the run answers with labels."),
    ] = False,
    force_base: ForceBase = False,
    json: Json = False,
) -> None:
    """Chat with a run, or with a base and adapters.

    A pipe is one question, or JSON lines of messages, each a conversation of its own.

    A run whose rows all have labels answers with labels and their probabilities.
    """
    from tuner.machine import hardware, imports

    with imports.importing():
        from tuner.inference import chat_tools, open_model
        from tuner.inference.sampling import Sampling

    where = console(json)
    if not math.isfinite(temperature):
        raise RecipeError("--temperature is not a finite number", "", "use 0 or more; 0 is greedy")
    if top_p is not None and not 0 < top_p <= 1:
        raise RecipeError("--top-p is out of range", "", "use a value above 0, up to 1")
    if temperature == 0 and (top_k or top_p):
        where.warn("--top-k and --top-p have no effect at temperature 0, which is greedy")
    functions = chat_tools.read(tools) if tools else []
    present = hardware.detect()
    source = open_model.model_to_open(run, base, adapter or (), present, "chat", step)
    # Libraries print to stderr: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        with imports.importing():
            import torch

            from tuner.inference import load as _  # noqa: F401  # all that opening needs
            from tuner.inference.chat import Chat

        model = open_model.load(source, where, force_base=force_base)
        torch.manual_seed(seed)
        # A chat template that is broken ends the command before the first question.
        given = _arguments(chat_arguments or (), model.prompts_of(model.active).template)
    if where.interactive:
        speaker = model.active.name or model.base.name
        where.text(f"chatting with {speaker}; /help lists the commands, /exit quits")
    sampling = Sampling(temperature, top_p, top_k)
    if generate and model.head.name == "classes":
        raise RecipeError(
            "--generate: this model cannot write",
            "it has a classification head",
            "leave out --generate: it answers with a label",
        )
    if functions and not generate and model.active.name in model.classifiers:
        raise RecipeError(
            "--tools: this run answers with labels",
            "all of its rows have one",
            "leave out --tools, or add --generate",
        )
    talk = Chat(
        model, where, max_new_tokens, sampling, system, given, generate=generate, tools=functions
    )
    if where.piped and not lines:
        talk.answer_all(where.read())
    else:
        talk.run()


def _arguments(texts: Sequence[str], template: ChatTemplate | None) -> dict[str, Any]:
    """Return the arguments of the chat template by name.

    Raises:
        RecipeError: one has no value, or the template does not read it.
    """
    from tuner.schema import strict_yaml

    given: dict[str, Any] = {}
    reads = template.abilities.arguments if template else ()
    for text in texts:
        name, found, value = text.partition("=")
        if template is None or not found or name not in reads:
            raise RecipeError(
                f"--chat-argument {text}",
                f"the chat template does not read '{name}'" if found else "it has no value",
                f"use NAME=VALUE with one of: {', '.join(reads) or 'none, it has no arguments'}",
            )
        given[name] = strict_yaml.resolve(strict_yaml.parse_value(value))
        template.refuse_half_switch(name, given[name], f"--chat-argument {text}")
    return given
