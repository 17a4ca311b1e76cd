"""Checks that a rendered row can be used for training."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.rows.dialogue import Dialogue, Message
from tuner.data.turns import reasoning, tool_calls


def check(dialogue: Dialogue, results: bool = True) -> None:
    """Check the turns or segments of one row.

    Args:
        dialogue: the row.
        results: whether calls before other turns need a result, as they do in requests.

    Raises:
        BadRow: an empty answer, a missing prompt, or turns out of order.
    """
    if not dialogue.segments:
        _check_turns(dialogue.messages)
        if results:
            _check_results(dialogue.messages)
    elif not all(segment.text.strip() for segment in dialogue.segments if segment.supervised):
        raise BadRow("the answer is empty")


def _check_turns(messages: tuple[Message, ...]) -> None:
    if not messages:
        raise BadRow("there is no assistant turn")
    for message in messages:
        _check_content(message)
    roles = [message["role"] for message in messages]
    check_systems(roles)
    for before, message in pairwise(messages):
        if message["role"] == "tool" and before["role"] not in ("assistant", "tool"):
            raise BadRow("a tool turn does not come after a call")
    _check_ids(messages)
    if not any(role != "system" for role in roles):
        raise BadRow("there is only a system turn")
    if next(role for role in roles if role != "system") == "assistant":
        raise BadRow(
            "the assistant speaks first (there is no prompt: leave that turn out, or make it "
            "one of the system)"
        )


def _check_results(messages: tuple[Message, ...]) -> None:
    for before, message in pairwise(messages):
        if (before.get("tool_calls") or before.get("call")) and message["role"] != "tool":
            raise BadRow(
                f"a turn of the {message['role']} follows a call that has no result (a call needs "
                "one, but in the last turn)"
            )


def check_systems(roles: Iterable[str]) -> None:
    """Check that a conversation has no system turn but the first.

    Args:
        roles: of its turns; the developer's is a system turn, too.

    Raises:
        BadRow: there are two, or one comes later.
    """
    places = [n for n, role in enumerate(roles) if role in ("system", "developer")]
    if len(places) > 1:
        raise BadRow("there is more than one system turn")
    if places not in ([], [0]):
        raise BadRow("the system turn is not the first one")


def _check_ids(messages: tuple[Message, ...]) -> None:
    """Refuse a result of a call that no turn before it made, where calls have ids."""
    made: set[Any] = set()
    for message in messages:
        calls = message.get("tool_calls") or ()
        made |= {call["id"] for call in calls if isinstance(call.get("id"), str)}
        answered = message.get("tool_call_id")
        if message["role"] == "tool" and made and answered is not None and answered not in made:
            raise BadRow(f"a tool turn answers the call '{answered}', which no turn made")


def _check_content(message: Message) -> None:
    content: Any = message.get("content")
    role = message["role"]
    if message.get("tool_calls"):
        tool_calls.check(message)
    if message.get("call"):
        tool_calls.parsed(message)
    elif role == "assistant" and isinstance(content, str):
        tool_calls.check_written(content)
    if content is None and message.get(reasoning.KEY) and not message.get("tool_calls"):
        raise BadRow("there is reasoning, but the answer is empty")
    if content is None and message.get("tool_calls"):
        return
    if content is None:
        raise BadRow("the answer is null" if role == "assistant" else f"a {role} turn has no text")
    if not isinstance(content, str):
        raise BadRow(f"the content of a turn is not text but {type(content).__name__}")
    if role == "assistant" and not content.strip() and not message.get("tool_calls"):
        only = "there is reasoning, but " if message.get(reasoning.KEY) else ""
        raise BadRow(f"{only}the answer is empty")
