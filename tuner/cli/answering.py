"""Options of the commands that answer with a model, and how they are checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.errors import RecipeError

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.data.chat.chat_template import ChatTemplate
    from tuner.inference.sampling import Sampling

Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="PATH", help="Run or adapter folder. Repeatable."),
]
System = Annotated[str, typer.Option("--system", metavar="TEXT", help="System prompt.")]
ChatArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--chat-argument",
        metavar="NAME=VALUE",
        help="Argument of the chat template, such as enable_thinking=false. Repeatable.",
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Maximum tokens per answer.")
]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.0, help="Sampling temperature; 0: greedy.")
]
TopK = Annotated[
    int | None,
    typer.Option("--top-k", metavar="N", min=0, help="Sample from the N likeliest tokens; 0: all."),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", metavar="P", min=0.0, max=1.0, help="Nucleus sampling threshold."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed for sampling.")]
Generate = Annotated[
    bool,
    typer.Option("--generate", help="Write answers, even if the run answers with labels."),
]


def sampling_of(
    temperature: float, top_k: int | None, top_p: float | None, where: Console
) -> Sampling:
    """Return how tokens are chosen; warn of options that have no effect.

    Raises:
        RecipeError: one is out of range.
    """
    from tuner.inference.sampling import Sampling

    if not math.isfinite(temperature):
        raise RecipeError("--temperature is not a finite number", "", "use 0 or more; 0 is greedy")
    if top_p is not None and not 0 < top_p <= 1:
        raise RecipeError("--top-p is out of range", "", "use a value above 0, up to 1")
    if temperature == 0 and (top_k or top_p):
        where.warn("--top-k and --top-p have no effect at temperature 0, which is greedy")
    return Sampling(temperature, top_p, top_k)


def template_arguments(texts: Sequence[str], template: ChatTemplate | None) -> dict[str, Any]:
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
