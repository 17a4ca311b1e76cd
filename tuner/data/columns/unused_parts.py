"""Columns that look like a part of the task, and that nothing would read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.data.columns.preference_names import ALIASES, asks, of_the_task
from tuner.data.columns.template_match import NONE, Fit
from tuner.data.reading.read import Row
from tuner.errors import DataError
from tuner.schema.suggest import plain

_ANSWERS = ("chosen", "rejected", "completion")


class UnusedParts(DataError):
    """Nothing reads columns that look like a part of the task; `columns` leaves them out."""

    columns: Mapping[str, str] = {}


def refuse_unused(
    fit: Fit[Any], renames: Mapping[str, str], present: Sequence[str], rows: Sequence[Row]
) -> None:
    """Refuse columns that look like a part of the task, if nothing reads them.

    Args:
        fit: the format of preference data and its columns.
        renames: the recipe's `data.columns`.
        present: the columns of the file.
        rows: of the file.

    Raises:
        UnusedParts: there are some; with the lines of a recipe that read them, or leave them out.
    """
    unused = [
        name
        for name in present
        if name not in fit.used
        # A column of the format that the recipe renames leaves out the file's of that name.
        and name not in renames
        and of_the_task(name)
        and not (plain(name) == "winnertie" and any("score_" in each for each in fit.columns))
        and not all(_elsewhere(row, name, fit.used) for row in rows)
    ]
    # What the recipe leaves out under the format's name.
    gone = {
        plain(alias)
        for name in renames
        if renames[name] == NONE
        for alias in ALIASES.get(name, (name,))
    }
    unused = [name for name in unused if plain(name) not in gone]
    if not unused:
        return
    lines = [f"data.columns: {{{', '.join(f'{name}: none' for name in unused)}}}"]
    ranks = [name for name in unused if _ranks([row.values.get(name) for row in rows])]
    if fit.template.name == "rankings" and len(ranks) == len(unused) == 1:
        # Left out, the answers would count as best first.
        lines = [f"data.columns: {{ranks: {ranks[0]}}}   # of each answer; 1 is the best"]
    texts = [name for name in unused if asks(name) and not _answered(name, fit, rows)]
    if len(unused) == len(texts) == 1 and "input" not in fit.columns:
        lines.insert(0, f"data.columns: {{input: {texts[0]}}}   # after the prompt")
    error = UnusedParts(
        f"part of the task would not be used: {', '.join(unused)}",
        f"the format '{fit.template.name}' reads {', '.join(fit.columns.values())}",
        "say what the column is, or leave it out, as earlier versions did with a warning:\n  "
        + "\n  ".join(lines),
    )
    # A list of answers may be one answer in several words: then nothing is compared.
    if "answers" not in fit.columns:
        error.columns = dict.fromkeys(unused, NONE)
    raise error


def _answered(name: str, fit: Fit[Any], rows: Sequence[Row]) -> bool:
    """Whether a column is no part of a question: it holds no text, or says what an answer says, so
    that it would give it away."""
    answers = [file for part, file in fit.columns.items() if part in _ANSWERS or "answer" in part]
    for row in rows:
        value = row.values.get(name)
        if value in (None, ""):
            continue
        said = [row.values.get(file) for file in answers]
        texts = [each.strip() for each in said if isinstance(each, str) and each.strip()]
        if not isinstance(value, str) or any(text in value for text in texts):
            return True
    return False


def _ranks(values: Sequence[Any]) -> bool:
    """Whether values are lists of numbers."""
    lists = [value for value in values if isinstance(value, list)]
    return bool(lists) and all(isinstance(item, int | float) for each in lists for item in each)


def _elsewhere(row: Row, name: str, used: frozenset[str]) -> bool:
    """Whether what is in a column is also in one that is read, or nothing is."""
    value = row.values.get(name)
    if value in (None, "", [], {}):
        return True
    if not isinstance(value, str | list | dict):
        return False
    read = [row.values.get(each) for each in used]
    if isinstance(value, str):
        value = value.strip()
        texts = [each.strip() for each in read if isinstance(each, str)]
    else:
        texts = []
    # As a text of its own, or as a part of turns.
    said = json.dumps(value) if isinstance(value, str) else json.dumps(value)[1:-1]
    return value in texts or any(said in json.dumps(each) for each in read if each is not None)
