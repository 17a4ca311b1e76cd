"""Rows that cannot be used: collected and counted; too many of them are refused."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tuner.console.formatting import counted
from tuner.errors import DataError

# Where no row is good, the fault is hardly in the rows.
EVERY = (
    "correct what is said of the rows; if their columns hold something else than the template "
    "reads from them, name the template and the columns that it shall read: data.template, "
    "data.columns (tuner templates list)"
)
# Where no row is good, and the fault is inside of turns.
TURNS = (
    "correct the turns of the rows, or their tools: the columns are found, and no key of the "
    "recipe reads them in another way"
)
# Where the rows are good, and the chat template does something else with them.
TEMPLATE = (
    "correct the chat template, or name one that shows such rows in model.chat_template: chatml "
    "writes turns as they are, qwen3 reasoning and calls too"
)
# Where the only fault is a speaker that no template knows.
ROLES = (
    "write a known role in its place, or add it to the roles of a template of your own: "
    "tuner templates show chat > own.yaml, then data.template: own.yaml"
)
# Where the only fault is a header.
TWICE = "appears twice in the header"
RENAME = "give each column of the header a name of its own, in the file"
LISTED = 10
LISTED_CLASSES = 20
_UNKNOWN = "unknown role"
_TEMPLATE = "the model's chat template"
_OF_TURNS = re.compile(r"\bturns?\b|\bcalls?\b|\bassistant\b|\breasoning\b|^tools\b")


class BadRow(ValueError):
    """A row that cannot become an example; the text names the class of the problem."""


class UnknownRole(BadRow):
    """A row with a speaker that its template does not know."""

    def __init__(self, role: str, known: Iterable[str]) -> None:
        super().__init__(f"{_UNKNOWN} {role} (known: {', '.join(known)})")


class EmptyPrompt(BadRow):
    """A row that asks nothing."""


@dataclass(frozen=True)
class Unreadable:
    """Takes the place of a value that cannot be read; a row is bad only if something uses it."""

    reason: str


def refuse_unreadable(value: Any, column: str) -> None:
    """Refuse a value that could not be read, or that holds one.

    Raises:
        BadRow: with the reason.
    """
    if isinstance(value, Unreadable):
        raise BadRow(f"the column '{column}' cannot be used: {value.reason}")
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            refuse_unreadable(item, column)


@dataclass
class BadRows:
    """The rows left out so far, each with the reason, of at most `limit`.

    Attributes:
        limit: how many may be bad.
        found: the name and the reason of each.
        lines: in its file, where it is known.
    """

    limit: int
    found: list[tuple[str, str]] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)

    def add(self, row: str, reason: str, line: int = 0) -> None:
        """Record a bad row; `stop_if_too_many` raises if there are too many."""
        self.found.append((row, reason))
        self.lines[row] = line

    def add_unreadable(self, row: str, reason: str, fix: str = "", line: int = 0) -> None:
        """Record a row that cannot be read; `fix` says how it could be.

        Raises:
            DataError: more rows are bad than the recipe allows.
        """
        self.add(row, reason, line)
        if len(self.found) > self.limit:
            raise DataError(
                "a row cannot be read",
                fix=fix
                or "correct the row, or skip up to 100 such rows with data.max_bad_rows: 100",
                problems=[f"{name}: {why}" for name, why in self.found[-10:]],
            )

    def stop_if_too_many(self, of: int | None = None) -> None:
        """Raise when more rows are bad than the recipe allows.

        Args:
            of: how many rows there are, where that is known.

        Raises:
            DataError: lists up to ten rows of each class of problem.
        """
        count = len(self.found)
        if count <= self.limit:
            return
        every = 1 < count == of
        raise DataError(
            f"none of the {of} rows can be used for training"
            if every
            else f"{counted(count, 'row')} cannot be used for training",
            fix=self._fix(every),
            problems=self.problems(),
        )

    def _fix(self, every: bool) -> str:
        """What to do about the rows; `every` row is bad."""
        count, reasons = len(self.found), [reason for _, reason in self.found]
        skip = f"skip {'it' if count == 1 else 'them'}: data.max_bad_rows: {count}"
        if all(reason.startswith(_UNKNOWN) for reason in reasons):
            return ROLES
        if all(TWICE in reason for reason in reasons):
            return RENAME
        if every or all(reason.startswith(_TEMPLATE) for reason in reasons):
            return self.fix_for_all() if every else f"{TEMPLATE}; or {skip}"
        return f"correct the {'row' if count == 1 else 'rows'}, or {skip}"

    def fix_for_all(self) -> str:
        """Return what to do where no row is left: about the template, the turns or the columns."""
        reasons = [reason for _, reason in self.found]
        if all(reason.startswith(_TEMPLATE) for reason in reasons):
            return TEMPLATE
        inside = all(_OF_TURNS.search(each) and "column" not in each for each in reasons)
        return TURNS if inside else EVERY

    def problems(self) -> list[str]:
        """Return a line for each class of problem, with up to ten rows."""
        classes: dict[str, list[str]] = defaultdict(list)
        for row, reason in self.found:
            classes[reason].append(row)
        problems = []
        for reason, rows in list(classes.items())[:LISTED_CLASSES]:
            more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
            problems.append(f"{reason}: {', '.join(rows[:LISTED])}{more}")
        if len(classes) > LISTED_CLASSES:
            problems.append(f"and {len(classes) - LISTED_CLASSES} more problems")
        return problems
