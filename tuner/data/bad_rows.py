"""Rows that cannot be used: collected and counted; too many of them are refused."""

from __future__ import annotations

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
    """The rows left out so far, each with the reason, of at most `limit`."""

    limit: int
    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, row: str, reason: str) -> None:
        """Record a bad row; `stop_if_too_many` raises if there are too many."""
        self.found.append((row, reason))

    def add_unreadable(self, row: str, reason: str, fix: str = "") -> None:
        """Record a row that cannot be read; `fix` says how it could be.

        Raises:
            DataError: more rows are bad than the recipe allows.
        """
        self.add(row, reason)
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
        twice = all(TWICE in reason for _, reason in self.found)
        strangers = all(reason.startswith(_UNKNOWN) for _, reason in self.found)
        raise DataError(
            f"none of the {of} rows can be used for training"
            if every
            else f"{counted(count, 'row')} cannot be used for training",
            fix=ROLES
            if strangers
            else RENAME
            if twice
            else EVERY
            if every
            else f"correct the {'row' if count == 1 else 'rows'}, or skip "
            f"{'it' if count == 1 else 'them'}: data.max_bad_rows: {count}",
            problems=self.problems(),
        )

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
