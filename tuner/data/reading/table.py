"""Tables: CSV and its relatives as rows."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import TWICE, Unreadable
from tuner.data.reading.json_rows import BadLine
from tuner.data.reading.lines import UTF8, decode, lines

MAX_CSV_FIELD = (1 << 31) - 1
CSV, LITERAL = "csv", "literal"
Record = tuple[int, list[str] | BadLine]
# What Excel writes, and reads, before the first row.
_SEP = re.compile(r'"?sep=(.)"?')


@dataclass(frozen=True)
class Reading:
    """How a file is read; of a table, None is seen from the file.

    Attributes:
        name: what the recipe calls it, for messages.
        key: where it does: train or eval.
        encoding: a codec's name.
        separator: between the cells of a table; of a text file, what makes it one.
        header: whether the first row of a table names the columns.
        quotes: `csv`, where they enclose cells, or `literal`, where they are text.
        turns: lines of a text file say who speaks, and the recipe reads what is said.
        labels: lines of a text file begin with labels, and the recipe reads these.
        given: what the recipe says of it, as it is written there.
        kept: other keys of the data section, as they are written there.
    """

    name: str = ""
    key: str = "train"
    encoding: str = UTF8
    separator: str | None = None
    header: bool | None = None
    quotes: str | None = None
    turns: bool = False
    labels: bool = False
    given: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)

    def line(self, **keys: str) -> str:
        """Return the line of a recipe that gives the file these keys as well."""
        given = {"source": self.name, **self.given, **keys}
        pairs = ", ".join(f"{key}: {value}" for key, value in given.items())
        kept = "".join(f", {key}: {value}" for key, value in self.kept.items())
        return f"data: {{{self.key}: {{{pairs}}}{kept}}}"


class _Undecodable(Exception):
    """Carries the BadLine."""


def rows(path: Path, reading: Reading) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """Yield line and values of every row.

    Args:
        path: the file.
        reading: settled.
    """
    header: list[str] = []
    again: set[str] = set()
    for start, cells in records(path, reading):
        if isinstance(cells, BadLine):
            yield start, cells
        elif not header and cells:
            header = _names(cells) if reading.header else positions(len(cells))
            again = {name for name, times in Counter(header).items() if times > 1}
            if not reading.header:
                yield start, dict(zip(header, cells, strict=True))
        elif cells and as_wide(cells, len(header)):
            values: dict[str, Any] = dict(zip(header, cells, strict=False))
            for name in again:
                values[name] = Unreadable(f"a column name {TWICE} (rename one)")
            yield start, values
        elif cells:
            named = "the header" if reading.header else "the first row"
            yield start, BadLine(f"{len(cells)} cells where {named} has {len(header)}")


def as_wide(cells: Sequence[str], width: int) -> bool:
    """Return whether a row has so many cells; empty ones behind them do not count."""
    return len(cells) >= width and not any(cell.strip() for cell in cells[width:])


def declared(path: Path, encoding: str) -> str | None:
    """Return the separator that the first line of a file names (sep=;), as Excel writes it."""
    _, first = next(lines(path, encoding), (1, b""))
    text = decode(first)
    found = _SEP.fullmatch(text.rstrip()) if isinstance(text, str) else None
    return found[1] if found else None


def positions(count: int) -> list[str]:
    """Return the names of columns without any: 1, 2, ..."""
    return [str(place) for place in range(1, count + 1)]


def _names(cells: Sequence[str]) -> list[str]:
    """The columns that a header names; of several empty cells, each by its position."""
    names = [cell.strip() for cell in cells]
    if names.count("") < 2:
        return names
    return [name or place for name, place in zip(names, positions(len(names)), strict=True)]


def records(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the cells of every line or, where quotes enclose line ends, of every record.

    A row of empty cells, as spreadsheets write them behind the last one, is an empty line.
    """
    for start, cells in _records(path, reading):
        empty = not isinstance(cells, BadLine) and len(cells) > 1 and not any(map(str.strip, cells))
        yield start, [] if empty else cells


def _records(path: Path, reading: Reading) -> Iterator[Record]:
    separator = reading.separator or ","
    skipped = int(declared(path, reading.encoding) is not None)
    if reading.quotes == LITERAL or len(separator) > 1:
        for number, raw in islice(lines(path, reading.encoding), skipped, None):
            text = decode(raw)
            if text:
                yield number, text.split(separator) if isinstance(text, str) else text
        return

    def decoded() -> Iterator[str]:
        for _, raw in islice(lines(path, reading.encoding), skipped, None):
            text = decode(raw)
            if isinstance(text, BadLine):
                raise _Undecodable(text)
            yield text + "\n"

    csv.field_size_limit(MAX_CSV_FIELD)
    reader = csv.reader(decoded(), delimiter=separator, strict=True)
    start = 1 + skipped
    try:
        for cells in reader:
            yield start, cells
            start = reader.line_num + 1 + skipped
    except csv.Error as error:
        fix = "correct the quotes in the file; or, if they are part of the text: "
        fix += reading.line(quotes=LITERAL)
        yield start, BadLine(str(error), fatal=True, fix=fix)
    except _Undecodable as error:
        problem: BadLine = error.args[0]
        yield reader.line_num + 1 + skipped, BadLine(problem.reason, fatal=True, undecodable=True)
