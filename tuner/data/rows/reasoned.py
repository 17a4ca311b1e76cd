"""Which answers of rows come with reasoning: what most have is how answers are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tuner.console.formatting import counted
from tuner.data.rows.dialogue import Dialogue
from tuner.data.turns import turn_keys
from tuner.data.turns.reasoning import KEY

# Keys of the report.
ROWS, WITH, ANSWERS = "rows_with_reasoning", "answers_with_reasoning", "learned_answers"


def by_row(dialogues: Iterable[Dialogue], drop: bool = False) -> list[list[bool]]:
    """Return of each dialogue whether reasoning comes before its learned answers, in order.

    Each of them is learned behind a prompt that asks for such an answer.

    Args:
        dialogues: the rows.
        drop: whether reasoning is left out of all of them.
    """
    return [
        [
            not drop and bool(message.get(KEY))
            for message in dialogue.messages
            if message["role"] == "assistant" and turn_keys.weight(message)
        ]
        for dialogue in dialogues
    ]


def facts(rows: Iterable[list[bool]]) -> dict[str, int]:
    """Return how many rows and answers have reasoning, for the report; see `by_row`."""
    rows = list(rows)
    return {
        ROWS: sum(any(row) for row in rows),
        WITH: sum(map(sum, rows)),
        ANSWERS: sum(map(len, rows)),
    }


def share(report: Mapping[str, Any]) -> str:
    """Return how many answers have reasoning, as in "40 of 60 answers"; rows are named where each
    has one answer. Empty for a report without these facts."""
    if ANSWERS not in report:
        return ""
    rows, answers = report["rows_train"], report[ANSWERS]
    if rows == answers:
        return f"{report[ROWS]} of {counted(rows, 'row')}"
    return f"{report[WITH]} of {counted(answers, 'answer')}"
