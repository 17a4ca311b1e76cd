"""What is unusual about the turns of rows and may be meant: counted for the report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from tuner.data.rows.dialogue import Dialogue, Message
from tuner.data.turns import tool_calls
from tuner.data.turns.tool_calls import UNFIT

# Keys of the report.
ODDITIES = (
    *("rows_with_consecutive_turns", "rows_with_results_without_calls"),
    *("rows_with_bare_tools",),
)
# Of these, with the rows.
NAMED = ("rows_with_missing_results", "rows_with_empty_turns", "rows_with_other_reasoning")
# Reasoning between other tags than <think> and </think>.
_REASONING = re.compile(r"\s*<(thinking|thought|reasoning|reason)>.*</\1>", re.I | re.S)


class TurnTally:
    """Counts what is unusual about the turns of rows.

    Args:
        literal: calls in the text of an answer are text.
    """

    def __init__(self, literal: bool = False) -> None:
        self._literal = literal
        self._rows: dict[str, list[str]] = {key: [] for key in NAMED}
        self._odd: Counter[str] = Counter()
        self._unfit: Counter[tuple[str, str]] = Counter()
        self._unanswered = 0

    def add(self, dialogue: Dialogue) -> None:
        """Count a checked row."""
        if not self._literal:
            read = [tool_calls.out_of_text(each) or each for each in dialogue.messages]
            dialogue = replace(dialogue, messages=tuple(read))
        self._unanswered += dialogue.unanswered
        for key, found in zip(NAMED, (_lacks_results, _is_empty, _thinks), strict=True):
            if found(dialogue.messages):
                self._rows[key].append(dialogue.row)
        self._odd.update(_oddities(dialogue))
        self._unfit.update(_unfit_calls(dialogue))

    def facts(self) -> dict[str, Any]:
        """Return what was found, for the report."""
        odd: dict[str, Any] = {key: self._odd[key] for key in ODDITIES} | self._rows
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
    if dialogue.bare_tools:
        yield ODDITIES[2]


def _unfit_calls(dialogue: Dialogue) -> Iterator[tuple[str, str]]:
    """What a row's calls have other than its tools say, if it has tools: see `tool_calls.unfit`."""
    tools = tool_calls.schemas(dialogue.tools or [])
    for message in dialogue.messages if tools else ():
        yield from tool_calls.unfit(message, tools)


def _lacks_results(messages: Sequence[Message]) -> bool:
    """Whether calls of one turn have some results, but fewer than there are calls."""
    wanted = found = 0
    for message in messages:
        if message["role"] == "tool":
            found += 1
            continue
        if 0 < found < wanted:
            return True
        wanted, found = len(list(tool_calls.made(message))), 0
    return 0 < found < wanted


def _is_empty(messages: Sequence[Message]) -> bool:
    turns = (each for each in messages if each["role"] in ("user", "system"))
    return any(not str(turn.get("content") or "").strip() for turn in turns)


def _thinks(messages: Sequence[Message]) -> bool:
    answers = (str(each.get("content")) for each in messages if each["role"] == "assistant")
    return any(map(_REASONING.match, answers))


def _calls(message: Message) -> bool:
    return bool(message.get("tool_calls") or message.get("call"))
