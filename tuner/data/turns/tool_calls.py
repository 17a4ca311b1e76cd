"""Tool calls of a turn: checked, and with their arguments in the form that a template takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.turns.reasoning import Message

# Keys of the report: calls of functions that a row's tools lack, and arguments they leave out.
UNFIT = ("calls_of_unknown_tools", "calls_without_required_arguments")
# Hermes's form, which Qwen and others learned; a block that is cut off has no end.
_BLOCK = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)", re.DOTALL)
# In such a block: GLM writes a name and arguments by key, Qwen3-Coder functions and parameters.
_NO_JSON = re.compile(r"\s*([\w.-]+\s*(<arg_key>|\Z)|<function=)")


def called(call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of a call, which may be an object or JSON text.

    Raises:
        BadRow: it has no name, or its arguments are not an object.
    """
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("a tool call has no name")
    name, given = function["name"], function.get("arguments", function.get("parameters"))
    if "arguments" in function and "parameters" in function:
        raise BadRow(f"a call of '{name}' has both arguments and parameters")
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


def parsed(message: Message) -> Message:
    """Return a turn whose text is a call as JSON, or a list of calls, with these calls.

    Raises:
        BadRow: it is none.
    """
    calls = _calls(message["content"], "a turn that calls a function")
    functions = [{"type": "function", "function": call} for call in calls]
    rest = {key: value for key, value in message.items() if key != "call"}
    return {**rest, "content": "", "tool_calls": functions}


def _calls(text: Any, what: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        raise BadRow(f"{what} is not JSON with its name and arguments") from None
    calls = [_function(call) for call in (found if isinstance(found, list) else [found])]
    if not calls:
        raise BadRow(f"{what} has an empty list of calls")
    for call in calls:
        called(call)
    return calls


def _function(call: Any) -> dict[str, Any]:
    """A call as rows have it, with its arguments under the one key."""
    given = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise BadRow("a tool call has no name")
    # Llama 3 writes them as parameters.
    keys = [key for key in ("arguments", "parameters") if key in given]
    if further := given.keys() - {"name", "id", "type", *keys}:
        raise BadRow(
            f"a call of '{given['name']}' has the key '{min(further)}', which nothing reads"
        )
    if len(keys) > 1:
        raise BadRow(f"a call of '{given['name']}' has both arguments and parameters")
    return {"name": given["name"], "arguments": given[keys[0]] if keys else {}}


def check_written(text: str) -> None:
    """Check the calls that the text of an answer begins or ends with, in Hermes's form.

    Raises:
        BadRow: one is not JSON with its name and arguments.
    """
    said = text.strip()
    if not said.startswith("<tool_call>") and not said.endswith("</tool_call>"):
        return
    for block in _BLOCK.finditer(said):
        body, end = block.groups()
        if not end:
            raise BadRow("a call in the text of an answer has no </tool_call>")
        if not _NO_JSON.match(body):
            _calls(body, "a call between <tool_call> and </tool_call>")


def out_of_text(message: Message) -> Message | None:
    """Return an answer whose text ends with calls in Hermes's form as the turn that makes them;
    None if it does not, or has something behind or between them."""
    content = message.get("content")
    if message["role"] != "assistant" or message.get("tool_calls") or "call" in message:
        return None
    if not isinstance(content, str) or not content.rstrip().endswith("</tool_call>"):
        return None
    text, _, rest = content.partition("<tool_call>")
    bodies = [block[1] for block in _BLOCK.finditer(f"<tool_call>{rest}")]
    if _BLOCK.sub("", f"<tool_call>{rest}").strip() or any(map(_NO_JSON.match, bodies)):
        return None
    try:
        calls = [call for body in bodies for call in _calls(body, "")]
    except BadRow:
        return None
    functions = [{"type": "function", "function": call} for call in calls]
    return {**message, "content": text.rstrip(), "tool_calls": functions}


def made(message: Message) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and arguments of the calls of a checked turn."""
    if message.get("call"):
        message = parsed(message)
    yield from map(called, message.get("tool_calls") or ())


def unfit(message: Message, tools: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the calls of a turn have other than the tools say: which of `UNFIT`, and of what.

    Args:
        message: a checked turn.
        tools: functions of the row by name, each with its schema.
    """
    for name, given in made(message):
        if name not in tools:
            yield UNFIT[0], name
            continue
        wanted = tools[name].get("required") if isinstance(tools[name], dict) else None
        for argument in wanted if isinstance(wanted, list) else ():
            if argument not in given:
                yield UNFIT[1], f"{name}: {argument}"


def schemas(tools: list[Any]) -> dict[str, Any]:
    """Return the schema of the arguments of each tool of a row, by the function's name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {
        str(each.get("name")): each.get("parameters")
        for each in functions
        if isinstance(each, dict)
    }


def whole_tools(tools: list[Any]) -> list[Any]:
    """Return tools in the form in which requests have them: the schema of a function that is there
    alone becomes a tool with this function. What is none stays as it is."""
    return [_whole(tool) for tool in tools]


def _whole(tool: Any) -> Any:
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        return tool
    if isinstance(tool.get("function"), dict):
        return tool if "type" in tool else {"type": "function", **tool}
    if not isinstance(tool.get("name"), str) or "function" in tool:
        return tool
    schema = {key: value for key, value in tool.items() if key != "type"}
    return {"type": "function", "function": schema}


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
        return {**call, "function": _renamed(call["function"], written)}
    return _renamed(call, written)


def _renamed(call: dict[str, Any], written: Any) -> dict[str, Any]:
    rest = {key: value for key, value in call.items() if key != "parameters"}
    return {**rest, "arguments": written}
