"""What is unusual about the turns of rows and may be meant: counted for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tuner.data.rows.dialogue import Dialogue, Message
from tuner.data.turns import tool_calls
from tuner.data.turns.tool_calls import UNFIT

# Keys of the report.
ODDITIES = ("rows_with_consecutive_turns", "rows_with_results_without_calls")


class TurnTally:
    """Counts what is unusual about the turns of rows."""

    def __init__(self) -> None:
        self._odd: Counter[str] = Counter()
        self._unfit: Counter[tuple[str, str]] = Counter()
        self._unanswered = 0

    def add(self, dialogue: Dialogue) -> None:
        """Count a checked row."""
        self._unanswered += dialogue.unanswered
        self._odd.update(_oddities(dialogue))
        self._unfit.update(_unfit_calls(dialogue))

    def facts(self) -> dict[str, Any]:
        """Return what was found, for the report."""
        odd: dict[str, Any] = {key: self._odd[key] for key in ODDITIES}
        found = self._unfit.most_common()
        unfit = {
            key: {name: count for (kind, name), count in found if kind == key} for key in UNFIT
        }
        return odd | unfit | {"unanswered_rows": self._unanswered}


def _oddities(dialogue: Dialogue) -> Iterator[str]:
    """What is unusual about a row, each once, as keys of the report."""
    pairs = list(pairwise(dialogue.messages))
    if any(
        before["role"] == after["role"] and after["role"] != "tool" and not _calls(before)
        for before, after in pairs
    ):
        yield ODDITIES[0]
    if any(
        after["role"] == "tool" and before["role"] == "assistant" and not _calls(before)
        for before, after in pairs
    ):
        yield ODDITIES[1]


def _unfit_calls(dialogue: Dialogue) -> Iterator[tuple[str, str]]:
    """What a row's calls have other than its tools say, if it has tools: see `tool_calls.unfit`."""
    tools = tool_calls.schemas(dialogue.tools or [])
    for message in dialogue.messages if tools else ():
        yield from tool_calls.unfit(message, tools)


def _calls(message: Message) -> bool:
    return bool(message.get("tool_calls") or message.get("call"))
