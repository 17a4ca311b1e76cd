"""Keys of a turn other than its role and text: how much of it is learned, and keys nobody reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.turns import reasoning
from tuner.data.turns.reasoning import Message

# OpenAI's fine-tuning files, axolotl, LLaMA-Factory and others; 0 or false: the turn is no target.
_MARKS = ("weight", "train", "loss", "loss_mask", "train_on_turn")
# Ours: what the tokens of a turn weigh in the loss, where it is not what its role says.
WEIGHT = "_weight"
_KNOWN = frozenset(["role", "content", "tool_calls", "tool_call_id", "call", reasoning.KEY, WEIGHT])


def taken(message: Message) -> tuple[Message, float | None]:
    """Return a turn without the keys that say how much of it is learned, and what they say.

    Returns:
        None for the weight if there is no such key.

    Raises:
        BadRow: such a key is no number from 0 to 1 nor true or false, or two of them contradict.
    """
    given = {name: message[name] for name in _MARKS if message.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadRow(
                f"'{name}' of a turn is {value!r}, not a number from 0 to 1, true or false"
            )
    if len({float(value) for value in given.values()}) > 1:
        raise BadRow(f"{' and '.join(given)} of a turn contradict each other")
    rest = {key: value for key, value in message.items() if key not in _MARKS}
    return rest, float(next(iter(given.values()))) if given else None


def weight(message: Message) -> float:
    """Return what the tokens of a turn weigh in the loss; 0: it is not learned."""
    value: float = message.get(WEIGHT, _usual(message))
    return value


def weighed(message: Message, value: float) -> Message:
    """Return a turn with this weight; one that its role has anyway is not written down."""
    return message if value == _usual(message) else {**message, WEIGHT: value}


def _usual(message: Message) -> float:
    return 1.0 if message["role"] == "assistant" else 0.0


def refuse_fractions(messages: Iterable[Message], who: str) -> None:
    """Refuse turns that are learned in part.

    Raises:
        BadRow: one has a weight between 0 and 1; names `who` learns answers whole.
    """
    for message in messages:
        if 0 < (value := weight(message)) < 1:
            raise BadRow(f"a turn has the weight {value:g}, but {who}: leave it out, or 0 or 1")


def shown(message: Message) -> dict[str, Any]:
    """Return a turn as a template is given it, without marks of ours."""
    return {key: value for key, value in message.items() if key != WEIGHT}


def unread(messages: Iterable[Message], template: str) -> Counter[str]:
    """Count the keys of turns that a chat template never names, and reasoning of other turns than
    answers."""
    words = set(re.findall(r"\w+", template)) | _KNOWN
    return Counter(
        key
        for message in messages
        for key in message
        if key not in words or (key in reasoning.FIELDS and message["role"] != "assistant")
    )
