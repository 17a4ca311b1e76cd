"""Texts in lists: a list of what was asked, and one of what was answered, turn by turn.

As in the arena's tables, whose cells hold such lists as JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.reading import json_rows
from tuner.data.reading.read import Row
from tuner.data.turns.turn_lists import shape
from tuner.errors import DataError

PROMPT = "prompt"


def texts_of(value: Any) -> list[str] | None:
    """Return the texts of a list, which may be written as JSON; None if it is no list of texts."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json_rows.decode(value)
        except ValueError:
            return None
    if not isinstance(value, list) or not value:
        return None
    if not all(item is None or isinstance(item, str) for item in value):
        return None
    return [item or "" for item in value]


def in_lists(columns: Mapping[str, str], rows: Sequence[Row], named: str) -> frozenset[str]:
    """Return the columns that hold lists of texts, turn by turn, in most rows; all or none.

    Args:
        columns: of the prompt, and of the answers to it, by the format's names.
        rows: of the file.
        named: what `data.template` calls the format, with which texts are taken as they are.

    Raises:
        DataError: only some hold lists; a text that is a list may also be what is to be learned.
    """
    found = {}
    for name, column in columns.items():
        values = [v for row in rows if (v := row.values.get(column)) not in (None, "", [])]
        lists = [texts for value in values if (texts := texts_of(value))]
        if len(lists) * 2 > len(values) and not shape(values):
            found[name] = max(map(len, lists))
    if PROMPT in found and len(found) == len(columns):
        return frozenset(found)
    single = [name for name, most in found.items() if most == 1]
    if not single and PROMPT not in found:
        return frozenset()
    listed = ", ".join(columns[name] for name in found)
    lines = [f"data.template: {named}   # each list is a text to learn, with its brackets"]
    if len(single) == len(found):
        paths = ", ".join(f"{name}: {columns[name]}.0" for name in found)
        lines.insert(0, f"data.columns: {{{paths}}}   # the text in each list")
    raise DataError(
        f"lists of texts can be read in two ways: {listed}",
        "a prompt and its answers are opened turn by turn where all of them are such lists",
        "say what they are:\n  " + "\n  ".join(lines),
    )


def spread(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a row's values with turns in place of lists of texts.

    Args:
        row: its values.
        columns: of the prompt, and of the answers to it, by the format's names.

    Raises:
        BadRow: the lists do not go together, or answers before the last ones differ.
    """
    found: dict[str, list[str]] = {}
    for column in columns.values():
        texts = texts_of(row.values.get(column))
        if texts is None:
            raise BadRow(f"'{column}' is no list of texts, which it is in other rows")
        found[column] = texts
    if len({len(texts) for texts in found.values()}) > 1:
        counts = ", ".join(f"'{column}' {len(texts)}" for column, texts in found.items())
        raise BadRow(f"the lists of texts do not go together: {counts}")
    asked = found.pop(columns[PROMPT])
    before, *others = (texts[:-1] for texts in found.values())
    if any(each != before for each in others):
        raise BadRow("the answers before the last ones differ, so that these cannot be compared")
    turns = []
    for question, answer in zip(asked, [*before, ""], strict=True):
        turns += [_turn("user", question), _turn("assistant", answer)]
    last = {column: _turn("assistant", texts[-1]) for column, texts in found.items()}
    return {**row.values, columns[PROMPT]: turns[:-1], **last}


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}
