"""What the columns of a source hold: kinds of contents, and the language of its texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tuner.data.bad_rows import Unreadable
from tuner.data.fields.language import language_of
from tuner.data.reading import json_rows
from tuner.data.reading.read import Row
from tuner.data.turns.turn_lists import shape
from tuner.schema.suggest import listed

# A mistake in a few rows must not hide what a column is.
MOST = 0.9
LONG = {"zh": 100}
LONG_ELSEWHERE = 200
MOST_LABELS = 64
# Fewer rows do not show whether anything repeats.
FEW = 10
LABEL_LENGTH = 60

_LETTER = re.compile(r"[(（\[]?[A-Za-z][)）\].、．:]?")
_INDEX = re.compile(r"1?[0-9]|2[0-5]")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")
TRUTHS = frozenset(("true", "false", "yes", "no", "是", "否", "对", "错", "不是"))
# How a kind is called in messages.
NAMES = {
    "text": "texts",
    "number": "numbers",
    "boolean": "true or false",
    "letter": "letters",
    "index": "small whole numbers",
    "label": "labels that repeat",
    "list": "lists",
    "mapping": "mappings",
    "objects": "lists of mappings",
    "table": "lists of lists",
    "pairs": "lists of pairs",
    "turns": "conversations",
    "json": "JSON as text",
}


def filled(rows: Sequence[Row], columns: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of columns that are not blank."""
    return {n: [v for row in rows if not blank(v := row.values.get(n))] for n in columns}


def blank(value: Any) -> bool:
    """Return whether a value says nothing."""
    return (
        value is None
        or isinstance(value, Unreadable)
        or value in ("", [], {})
        or (isinstance(value, str) and not value.strip())
    )


class Evidence:
    """The values of the first rows of a source.

    Args:
        rows: the values of each row, by column.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        self._values: dict[str, list[Any]] = {}
        self._kinds: dict[str, dict[str, int]] = {}

    @cached_property
    def columns(self) -> list[str]:
        """The columns, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def values(self, column: str) -> list[Any]:
        """Return the values of a column that are not blank."""
        if column not in self._values:
            found = (row.get(column) for row in self.rows)
            self._values[column] = [value for value in found if not blank(value)]
        return self._values[column]

    def texts(self, column: str) -> list[str]:
        """Return the values of a column that are texts."""
        return [value for value in self.values(column) if isinstance(value, str)]

    def holds(self, column: str, kinds: Sequence[str], share: float = MOST) -> bool:
        """Return whether a column is of one of these kinds; a blank one is of each.

        Args:
            column: of the rows.
            kinds: names of `tuner.data.templates.template.Kind`.
            share: of the values that are not blank, for kinds that single values show.
        """
        values = self.values(column)
        if not values:
            return True
        counts = self._counted(column)
        if sum(counts.get(kind, 0) for kind in kinds) >= share * len(values):
            # Several kinds of one value count only once.
            kinds_of_each = sum(bool(kinds_of(value).intersection(kinds)) for value in values)
            if kinds_of_each >= share * len(values):
                return True
        tests = {"long": self.long, "label": self.repeats, "turns": self._turns}
        return any(tests[kind](column) for kind in kinds if kind in tests)

    def _counted(self, column: str) -> dict[str, int]:
        if column not in self._kinds:
            counts: dict[str, int] = {}
            for value in self.values(column):
                for kind in kinds_of(value):
                    counts[kind] = counts.get(kind, 0) + 1
            self._kinds[column] = counts
        return self._kinds[column]

    def long(self, column: str) -> bool:
        """Return whether half of a column's texts are long."""
        lengths = sorted(map(len, self.texts(column)))
        most = LONG.get(self.language or "", LONG_ELSEWHERE)
        return bool(lengths) and lengths[len(lengths) // 2] > most

    def repeats(self, column: str) -> bool:
        """Return whether a column's values are short and repeat; in few rows, whether they are
        words, true, false or whole numbers."""
        values = self.values(column)
        if not all(isinstance(each, str | int) for each in values):
            return False
        texts = [str(each).strip() for each in values]
        if any(len(text) > LABEL_LENGTH or "\n" in text for text in texts):
            return False
        different = len(set(texts))
        if len(texts) < FEW:
            return all(len(text.split()) <= 3 and len(text) <= 24 for text in texts)
        return different <= min(MOST_LABELS, len(texts) // 2)

    def labels(self, column: str) -> int:
        """Return how many different labels a column has; case and white space do not count."""
        return len({" ".join(str(value).split()).casefold() for value in self.values(column)})

    def constant(self, column: str) -> str:
        """Return in words that a column has one label only; empty if it has several."""
        some = " that is not blank" if len(self.values(column)) < len(self.rows) else ""
        return f"the same in every row{some}" if self.labels(column) == 1 else ""

    def brief(self, column: str) -> bool:
        """Return whether half of a column's texts are as short as labels."""
        lengths = sorted(map(len, self.texts(column)))
        return not lengths or lengths[len(lengths) // 2] <= LABEL_LENGTH

    def decides(self, column: str, other: str) -> bool:
        """Return whether a column repeats, and each of its values goes with one of another's."""
        pairs = {
            (str(row.get(column)), str(row.get(other)))
            for row in self.rows
            if not blank(row.get(column))
        }
        return self.repeats(column) and len({value for value, _ in pairs}) == len(pairs)

    def _turns(self, column: str) -> bool:
        return shape(self.values(column)) is not None

    def describe(self, column: str) -> str:
        """Return what a column holds, in words."""
        values, counts = self.values(column), self._counted(column)
        if not values:
            return "nothing"
        whole = [kind for kind in _ORDER if counts.get(kind, 0) >= MOST * len(values)]
        if whole[:1] == ["text"] and self.repeats(column) and len(values) >= FEW:
            return self.constant(column) or f"{self.labels(column)} {NAMES['label']}"
        if whole:
            return ("long " if whole[0] == "text" and self.long(column) else "") + NAMES[whole[0]]
        return listed([NAMES[kind] for kind in _ORDER if counts.get(kind)][:3]) or "values"

    @cached_property
    def language(self) -> str | None:
        """zh if nine rows of ten are Chinese; en if all together are English; else None."""
        rows = self.rows[:200]
        known = [found for row in rows if (found := language_of([row]))]
        if known.count("zh") >= MOST * max(1, len(known)):
            return "zh"
        return None if "zh" in known else language_of(rows)


_ORDER = (
    *("boolean", "letter", "index", "number", "turns", "pairs", "table", "objects"),
    *("list", "mapping", "json", "text"),
)


def kinds_of(value: Any) -> set[str]:
    """Return the kinds that a value that is not blank is of."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "index"} if value in range(26) else {"number"}
    if isinstance(value, str):
        return _of_text(value.strip())
    return _of_parts(value)


def _of_text(text: str) -> set[str]:
    kinds = {"text"}
    if text.casefold() in TRUTHS:
        kinds.add("boolean")
    if _LETTER.fullmatch(text):
        kinds.add("letter")
    if _NUMBER.fullmatch(text):
        kinds.add("number")
    if _INDEX.fullmatch(text):
        kinds.add("index")
    if text[:1] in ("[", "{"):
        try:
            parts = json_rows.decode(text)
        except ValueError:
            return kinds
        kinds |= {"json", *_of_parts(parts)}
    return kinds


def _of_parts(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {"mapping"}
    if not isinstance(value, list):
        return set()
    if all(isinstance(item, dict) for item in value):
        return {"objects"}
    if all(isinstance(item, list) for item in value):
        pairs = all(len(item) == 2 and all(isinstance(x, str) for x in item) for item in value)
        return {"table", "pairs"} if pairs else {"table"}
    return {"list"} if not any(isinstance(item, list | dict) for item in value) else set()
