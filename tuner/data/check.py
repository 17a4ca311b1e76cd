"""What makes a rendered row unfit to train on."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tuner.data.dialogue import BadRow, Dialogue, Message
from tuner.data.load import BadRows
from tuner.errors import DataError

LISTED = 10
LISTED_CLASSES = 20


class Problems:
    """Bad rows by class of problem; unreadable rows count towards the same limit."""

    def __init__(self, unreadable: BadRows) -> None:
        self._bad = unreadable

    def add(self, row: str, reason: str) -> None:
        """Note a row; `stop_if_too_many` says when it is too many."""
        self._bad.found.append((row, reason))

    def stop_if_too_many(self) -> None:
        """Raise when more rows are bad than the recipe allows.

        Raises:
            DataError: lists up to ten rows of each class of problem.
        """
        if len(self._bad.found) <= self._bad.limit:
            return
        classes: dict[str, list[str]] = defaultdict(list)
        for row, reason in self._bad.found:
            classes[reason].append(row)
        problems = []
        for reason, rows in list(classes.items())[:LISTED_CLASSES]:
            more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
            problems.append(f"{reason}: {', '.join(rows[:LISTED])}{more}")
        if len(classes) > LISTED_CLASSES:
            problems.append(f"and {len(classes) - LISTED_CLASSES} further problems")
        count = len(self._bad.found)
        raise DataError(
            f"{count} {'row is' if count == 1 else 'rows are'} not fit to train on",
            fix="correct the rows, or set data.max_bad_rows to leave such rows out",
            problems=problems,
        )


def check(dialogue: Dialogue) -> None:
    """Check the turns or segments of one row.

    Raises:
        BadRow: an empty answer, a missing prompt, or turns out of order.
    """
    if not dialogue.segments:
        _check_turns(dialogue.messages)
    elif not all(segment.text.strip() for segment in dialogue.segments if segment.supervised):
        raise BadRow("the answer is empty")


def _check_turns(messages: tuple[Message, ...]) -> None:
    if not messages:
        raise BadRow("there is no assistant turn")
    for message in messages:
        _check_content(message)
    roles = [message["role"] for message in messages]
    if roles.count("system") > 1:
        raise BadRow("there are two system turns")
    if "system" in roles[1:]:
        raise BadRow("the system turn is not the first one")
    if next(role for role in roles if role != "system") == "assistant":
        raise BadRow("the assistant speaks first (there is no prompt)")


def _check_content(message: Message) -> None:
    content: Any = message.get("content")
    role = message["role"]
    if content is None and message.get("tool_calls"):
        return
    if content is None:
        raise BadRow("the answer is null" if role == "assistant" else f"a {role} turn has no text")
    if not isinstance(content, str):
        raise BadRow(f"the text of a turn is not text but {type(content).__name__}")
    if role == "assistant" and not content.strip() and not message.get("tool_calls"):
        raise BadRow("the answer is empty")
