"""Functions that `tuner chat` shows the model: read from a file, called, and answered by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.data.turns import reasoning
from tuner.data.turns.reasoning import Message
from tuner.data.turns.tool_calls import whole_tools
from tuner.errors import DataError, RecipeError
from tuner.inference import call_forms
from tuner.inference.reading import Reader

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.inference.engine import Inference

_SHAPE = (
    'write a list of functions, as rows have it: [{"type": "function", "function": {"name": '
    '"tide", "description": "High water.", "parameters": {"type": "object", "properties": {"at": '
    '{"type": "string"}}}}}]'
)


def read(path: str) -> list[Any]:
    """Return the tools in a JSON file: a list, a single one, or those of an object with `tools`, as
    a row of training data is. Schemas alone are read as such rows are.

    Raises:
        RecipeError: it cannot be read, or a tool has no name.
    """
    what = f"--tools {path}"
    try:
        found = json.loads(Path(path).expanduser().read_text("utf-8"))
        if isinstance(found, dict):
            found = found.get("tools", found.get("functions", [found]))
        # Tables keep them as text.
        found = json.loads(found) if isinstance(found, str) else found
    except OSError as error:
        raise RecipeError(what, error.strerror or str(error), "name a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(what, f"it is not JSON: {error}", _SHAPE) from None
    if not isinstance(found, list) or not found:
        raise RecipeError(what, "it holds no list of functions", _SHAPE)
    for number, tool in enumerate(found, 1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecipeError(what, f"function {number} has no name", _SHAPE)
    return whole_tools(found)


def reader(model: Inference, prompt: Sequence[int], tools: Sequence[Any]) -> Reader:
    """Return what reads the answer to a prompt; without tools, a call is content.

    Raises:
        DataError: the model would not see the tools, or its calls cannot be read.
    """
    tokenizer, template = model.active.tokenizer, model.prompts_of(model.active).template
    form = call_forms.find(tokenizer, template, trl=bool(tools)) if template else None
    opened = reasoning.opens(str(tokenizer.decode(prompt)))
    if not tools:
        return Reader(opened, form if call_forms.has_channels(form) else None)
    if template is None or not template.abilities.tools or form is None:
        raise DataError(
            "the model cannot be shown tools",
            "its chat template has no form for calls that could be read"
            if template and template.abilities.tools
            else "its chat template renders a chat the same with and without them",
            "leave out --tools, or use a model whose chat template has tools",
        )
    return Reader(opened, form, tools, single=not template.abilities.parallel)


def turned(calls: Sequence[dict[str, str]], turns: Sequence[Message]) -> list[dict[str, Any]]:
    """Return calls as the turn that makes them has them, with ids that no turn before has."""
    made = sum(len(turn.get("tool_calls", ())) for turn in turns)
    # Some templates want ids of nine characters.
    return [
        {"id": f"call{number:05d}", "type": "function", "function": call}
        for number, call in enumerate(calls, made)
    ]


def results(turn: Message, console: Console) -> list[Message] | None:
    """Ask for the result of each call of a turn; None at the end of the input."""
    found: list[Message] = []
    for call in turn["tool_calls"]:
        name = call["function"]["name"]
        text = console.ask(f"{name} = ")
        if text is None:
            return None
        found.append({"role": "tool", "tool_call_id": call["id"], "content": text})
    return found
