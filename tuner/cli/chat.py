"""`tuner chat`: a conversation with a run, or with a base and adapters."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from tuner.cli.answering import (
    Adapters,
    ChatArguments,
    Generate,
    MaxNewTokens,
    Seed,
    System,
    Temperature,
    TopK,
    TopP,
    sampling_of,
    template_arguments,
)
from tuner.cli.options import AnyBase, ForceBase, Json, Step, console
from tuner.errors import RecipeError


def chat(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Run folder.")] = None,
    step: Step = None,
    base: AnyBase = None,
    adapter: Adapters = None,
    system: System = "",
    chat_arguments: ChatArguments = None,
    tools: Annotated[
        str | None,
        typer.Option(
            "--tools",
            metavar="FILE",
            help="JSON file of functions that the model may call; their results are typed.",
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 42,
    lines: Annotated[
        bool,
        typer.Option(
            "--lines",
            help="Read a pipe as a terminal: a question or command per line, one conversation.",
        ),
    ] = False,
    generate: Generate = False,
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

    where = console(json)
    sampling = sampling_of(temperature, top_k, top_p, where)
    functions = chat_tools.read(tools) if tools else []
    present = hardware.detect()
    source = open_model.model_to_open(run, base, adapter or (), present, "chat", step)
    # Libraries print to stderr: stdout is the console's.
    with contextlib.redirect_stdout(sys.stderr):
        with imports.importing():
            import torch

            from tuner.inference import labels
            from tuner.inference import load as _  # noqa: F401  # all that opening needs
            from tuner.inference.chat import Chat

        model = open_model.load(source, where, force_base=force_base)
        torch.manual_seed(seed)
        # A chat template that is broken ends the command before the first question.
        given = template_arguments(chat_arguments or (), model.prompts_of(model.active).template)
    if where.interactive:
        speaker = model.active.name or model.base.name
        where.text(f"chatting with {speaker}; /help lists the commands, /exit quits")
    labels.refuse_to_generate(generate, model.head.name)
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
