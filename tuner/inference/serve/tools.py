"""Tools and tool calls in requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from tuner.data.bad_rows import BadRow
from tuner.data.turns.reasoning import Message
from tuner.data.turns.tool_calls import whole_tools
from tuner.inference.serve.fields import Strict, Text, Words, unicode

MAX_NAME = 64
Name = Annotated[str, Field(pattern=rf"^[a-zA-Z0-9_.-]{{1,{MAX_NAME}}}$")]


class Function(Strict):
    """A function that the model may call."""

    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool, or the schema of its function alone; OpenAI's own tools are none of this server's."""

    type: Literal["function"]
    function: Function
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, given: Any, handler: ModelWrapValidatorHandler[Tool]) -> Tool:
        (given,) = whole_tools([given])
        made = handler(given)
        try:
            unicode(json.dumps(given, ensure_ascii=False))
        except RecursionError:
            raise PydanticCustomError("invalid_value", "it is nested too deeply") from None
        made._given = given
        return made

    @property
    def given(self) -> dict[str, Any]:
        """Return it with its keys in their order, as a row of training data would hold it."""
        return self._given


class FunctionCall(Strict):
    """What was called, with which arguments."""

    name: Words
    arguments: Text


class ToolCall(Strict):
    """A call that the model has made before."""

    id: Words
    type: Literal["function"] = "function"
    function: FunctionCall


class NamedFunction(Strict):
    """The function that is to be called."""

    name: Name


class NamedChoice(Strict):
    """A `tool_choice` that names a function."""

    type: Literal["function"]
    function: NamedFunction


def choice(given: Any) -> Any:
    """Return a `tool_choice` that this server knows.

    Raises:
        PydanticCustomError: it is OpenAI's choice among some of the tools.
    """
    if isinstance(given, dict) and given.get("type") == "allowed_tools":
        raise PydanticCustomError(
            "unsupported_parameter",
            "this server does not choose among tools: send those that may be called as 'tools', "
            "with tool_choice auto or required",
            {"parameter": "tool_choice"},
        )
    return given


def in_order(turns: Sequence[Message]) -> list[Message]:
    """Return turns with the results of calls in the order of the calls: most chat templates show
    no ids.

    Raises:
        BadRow: a result belongs to no call, the calls of a turn have none, or two have one id.
    """
    ordered: list[Message] = []
    waiting: list[str] = []
    results: dict[str, Message] = {}
    for turn in [*turns, {"role": ""}]:
        if turn["role"] == "tool":
            name = turn["tool_call_id"]
            if name not in waiting or name in results:
                raise BadRow(f"the result of '{name}' comes after no call with this id")
            results[name] = turn
            continue
        if waiting and not results:
            raise BadRow(f"the call '{waiting[0]}' has no result after it")
        # One result may be that of several calls, as in training.
        ordered += [*(results[name] for name in waiting if name in results), turn]
        waiting, results = [call["id"] for call in turn.get("tool_calls", ())], {}
        if len(set(waiting)) < len(waiting):
            raise BadRow("two calls of one turn have the same id")
    return ordered[:-1]
