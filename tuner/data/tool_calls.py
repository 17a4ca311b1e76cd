"""Tool calls of a turn: checked, and with their arguments in the form that a template takes."""

from __future__ import annotations

import json
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.reasoning import Message


def called(call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of a call, which may be an object or JSON text.

    Raises:
        BadRow: it has no name, or its arguments are not an object.
    """
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("a tool call has no name")
    name, given = function["name"], function.get("arguments")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise BadRow(f"the arguments of a call of '{name}' are not JSON") from None
    if not isinstance(given, dict):
        raise BadRow(f"the arguments of a call of '{name}' are not an object")
    return name, given


def check(message: Message) -> None:
    """Check the calls of a turn.

    Raises:
        BadRow: they are not the assistant's, or not calls.
    """
    calls = message["tool_calls"]
    if message["role"] != "assistant":
        raise BadRow(f"a {message['role']} turn has tool calls")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRow("tool_calls is not a list of objects")
    for call in calls:
        called(call)


def parsed(message: Message) -> Message | None:
    """Return a turn whose text is a call as JSON with that call; None if it is none."""
    try:
        call = json.loads(message["content"])
        function = {"name": call["name"], "arguments": call.get("arguments", {})}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return {**message, "content": "", "tool_calls": [{"type": "function", "function": function}]}


def native(message: Message, text: bool) -> Message:
    """Return a turn with the arguments of its calls as objects, or as JSON `text`.

    Raises:
        BadRow: see `check`.
    """
    check(message)
    return {**message, "tool_calls": [_native(call, text) for call in message["tool_calls"]]}


def _native(call: dict[str, Any], text: bool) -> dict[str, Any]:
    _, given = called(call)
    written = json.dumps(given, ensure_ascii=False) if text else given
    if "function" in call:
        return {**call, "function": {**call["function"], "arguments": written}}
    return {**call, "arguments": written}
