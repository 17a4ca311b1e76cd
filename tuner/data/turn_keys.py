"""Keys of a turn other than its role and text: which turns are learned, and keys nobody reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from tuner.data import reasoning
from tuner.data.bad_rows import BadRow
from tuner.data.reasoning import Message

# OpenAI's fine-tuning files, axolotl, LLaMA-Factory and others; 0 or false: the turn is no target.
_MARKS = ("weight", "train", "loss", "loss_mask", "train_on_turn")
MASKED = "masked"
_KNOWN = frozenset(["role", "content", "tool_calls", "tool_call_id", "call", reasoning.KEY, MASKED])


def marked(message: Message) -> Message:
    """Return a turn without the keys that say if it is learned; `masked` if it is not.

    Raises:
        BadRow: such a key is neither 0 or 1 nor true or false, or two of them contradict.
    """
    given = {name: message[name] for name in _MARKS if name in message}
    if not given or message.get("role") != "assistant":
        return {key: value for key, value in message.items() if key not in given}
    for name, value in given.items():
        if value not in (0, 1):
            raise BadRow(f"'{name}' of a turn is {value!r}, not 0 or 1 or true or false")
    if len({bool(value) for value in given.values()}) > 1:
        raise BadRow(f"{' and '.join(given)} of a turn contradict each other")
    rest = {key: value for key, value in message.items() if key not in given}
    return rest if all(given.values()) else {**rest, MASKED: True}


def shown(message: Message) -> Message:
    """Return a turn as a template is given it, without marks of ours."""
    return {key: value for key, value in message.items() if key != MASKED}


def unread(messages: Iterable[Message], template: str) -> Counter[str]:
    """Count the keys of turns that a chat template never names."""
    words = set(re.findall(r"\w+", template))
    return Counter(
        key for message in messages for key in message if key not in _KNOWN and key not in words
    )
