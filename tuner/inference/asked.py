"""What a pipe asks: one question, or JSON lines of messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.classifier import Given
from tuner.data.rows.check_row import check_systems
from tuner.data.templates.template import Conversation, load_template
from tuner.data.turns.reasoning import Message
from tuner.data.turns.turn_lists import messages_of
from tuner.errors import DataError

_TURNS, _TURN = frozenset({"messages"}), frozenset({"role", "content"})
_CALLS = frozenset({"role", "tool_calls"})
_SHAPES = (
    'write one conversation per line, {"messages": [{"role": "user", "content": "..."}]}, or one '
    'turn per line, {"role": "user", "content": "..."}'
)


def conversations(text: str) -> list[list[Message]]:
    """Return the conversations of a text, each up to the turn that is to be answered.

    A text is one question, whatever it holds. JSON lines are several, if the first one is an object
    with `messages`; if it is a turn with `role` and `content`, they are the turns of one.

    Raises:
        DataError: it is blank, or a line is not like the first one.
    """
    text = text.removeprefix("\ufeff").strip("\n")
    if not text.strip():
        raise DataError(
            "nothing is asked",
            "the standard input is empty",
            'pipe a question, as in: echo "Name the clause type." | tuner chat RUN',
        )
    found = objects(text)
    lines = found or [(1, {})]
    if all(item.keys() >= _TURN or item.keys() >= _CALLS for _, item in lines):
        given = [(lines[0][0], [item for _, item in lines])]
    elif any("messages" in item for _, item in lines):
        given = [(number, _messages(number, item)) for number, item in lines]
    else:
        return [[{"role": "user", "content": text}]]
    return [_conversation(number, turns) for number, turns in given]


def inputs(text: str) -> list[Given]:
    """Return the inputs of a text for a classifier: one, or one per JSON line.

    A line is an object with the columns of a row, or with `messages` that are one question.

    Raises:
        DataError: the text is blank, or a line is not like the first one.
    """
    found = objects(text)
    if found and not any("messages" in item for _, item in found):
        return [item for _, item in found]
    asked: list[Given] = []
    for number, turns in enumerate(conversations(text), 1):
        questions = [turn["content"] for turn in turns if turn["role"] != "system"]
        if len(questions) > 1:
            raise _unfit(number, "a classifier reads one question, not a conversation")
        asked += questions
    return asked


def objects(text: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the JSON objects of a text, one per line or one over all lines, with the number of
    their line; empty if it does not begin with one.

    Raises:
        DataError: a line after the first object is none.
    """
    if not text.lstrip().startswith("{"):
        return []
    whole = _object(text)
    if whole is not None:
        return [(1, whole)]
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        item = _object(line)
        if item is None and not found:
            return []
        if item is None:
            raise _unfit(number, "it is not a JSON object, and the lines before it are")
        found.append((number, item))
    return found


def _object(text: str) -> dict[str, Any] | None:
    try:
        item = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return item if isinstance(item, dict) else None


def _messages(number: int, item: dict[str, Any]) -> Any:
    if item.keys() != _TURNS:
        odd = ", ".join(sorted(item.keys() - _TURNS))
        raise _unfit(number, f"keys besides messages: {odd}" if odd else "it has no messages")
    return item["messages"]


def _conversation(number: int, turns: Any) -> list[Message]:
    conversation = load_template("chat", Path()).conversation
    assert isinstance(conversation, Conversation)
    try:
        found = messages_of(turns, conversation, "messages")
        check_systems(turn["role"] for turn in found)
    except BadRow as problem:
        raise _unfit(number, str(problem)) from None
    if not found:
        raise _unfit(number, "messages is empty")
    if not all(isinstance(turn.get("content"), str) or "tool_calls" in turn for turn in found):
        raise _unfit(number, "a turn has no text")
    if (last := found[-1]["role"]) not in ("user", "tool"):
        raise _unfit(number, f"the last turn has the role {last}; it must be the user's")
    return found


def _unfit(number: int, why: str) -> DataError:
    return DataError(f"line {number} of the input cannot be answered", why, _SHAPES)
