"""How a table is written, seen from its first rows: separator, header, quotes.

What cannot be seen is asked for. What a recipe says is not looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from tuner.data.reading.json_rows import BadLine
from tuner.data.reading.lines import lines
from tuner.data.reading.table import CSV, LITERAL, Reading, as_wide, declared, records
from tuner.errors import DataError
from tuner.schema.suggest import plain

SEPARATORS = (",", ";", "\t", "|")
# Rows that are looked at.
_EVIDENCE = 1000
# Of the rows, how many have as many cells as the first.
_EVEN = 0.9
# A longer text does not name a column.
_LONGEST_NAME, _MOST_WORDS, _LONGEST_WIDE = 40, 5, 12
_LONG = 100
# Fewer rows do not show whether anything repeats.
_FEW = 10
_OPTIONS = frozenset("ABCDEFGHIJ")
_NUMBER = re.compile(r"[-+]?[\d.,:/%-]*\d[\d.,:/%-]*")
_WIDE = re.compile("[\u3000-\u9fff\uac00-\ud7af]")
_ENDS = tuple(".?!;:\u3002\uff1f\uff01")
# A stop or a colon at the end of a name: "Ref. No.", "Verdict:".
_SHORTENED = re.compile(
    r"(?i:(\w+\.?[\s/]+){0,2}"
    r"(no|nr|num|ref|qty|amt|art|sec|para|vol|dept|doc|desc|cat|approx)\.|\w+:)"
)
# Names of columns that no template reads.
_BOOKKEEPING = frozenset(
    (
        *("id", "idx", "index", "uid", "uuid", "url", "link", "source", "date", "time", "name"),
        *("timestamp", "title", "category", "type", "topic", "domain", "lang", "language", "split"),
        *("score", "label", "labels", "class", "text", "content", "comment", "review", "sentence"),
    )
)


def settle(
    path: Path, asked: Reading, default: str, known: Callable[[], Collection[str]]
) -> tuple[Reading, list[str]]:
    """Find out how a table is written.

    Args:
        path: the file.
        asked: what the recipe says.
        default: the separator that its kind of file has.
        known: returns `plain` names that columns of a header may have.

    Returns:
        The reading, whole, and what was seen in the file that is not the rule.

    Raises:
        DataError: it cannot be seen whether the first row is a header.
    """
    said = []
    reading = asked
    if reading.separator is None:
        reading = replace(reading, separator=_separator(path, reading, default))
        if reading.separator != default:
            said.append(f"cells separated by {shown(str(reading.separator))}")
    if reading.quotes is None:
        literal = _quotes_are_text(path, reading)
        reading = replace(reading, quotes=LITERAL if literal else CSV)
        said += ["quotes as part of the text"] * literal
    if reading.header is None:
        first = _rows(path, reading)
        names = known() if first else ()
        header = is_header(first, names) if first else True
        if header is None:
            raise DataError(
                f"{path}: it cannot be seen whether the first row names the columns",
                f"it reads: {' | '.join(cell[:_LONGEST_NAME] for cell in first[0])}",
                f"if it does: {asked.line(header='true')}; if it is a row as the others, whose "
                f"columns are then named 1, 2, ...: {asked.line(header='false')}",
            )
        reading = replace(reading, header=header)
        if not header:
            said.append(f"no header, so columns are named 1 to {len(first[0])}")
        elif first and not known_names(first[0], names):
            said.append(f"the first row as the header: {' | '.join(first[0])}")
    return reading, said


def shown(separator: str) -> str:
    """Return a separator as a recipe has it."""
    return "tab" if separator == "\t" else f'"{separator}"'


def _rows(path: Path, reading: Reading) -> list[list[str]]:
    """The first rows, up to one that cannot be read."""
    found: list[list[str]] = []
    for _, cells in islice(records(path, reading), _EVIDENCE):
        if isinstance(cells, BadLine):
            break
        if cells:
            found.append(cells)
    return found


def _separator(path: Path, asked: Reading, default: str) -> str:
    """The separator that the first line names; else the one that gives the rows, of those for which
    the first has several cells, most often as many cells; the usual one, where none is better."""
    if (named := declared(path, asked.encoding)) is not None:
        return named
    shares = {}
    for separator in SEPARATORS:
        found = _rows(path, replace(asked, separator=separator, quotes=asked.quotes or CSV))
        several = bool(found) and len(found[0]) > 1
        even = sum(as_wide(cells, len(found[0])) for cells in found) if several else 0
        shares[separator] = even / max(1, len(found))
    best = max(shares, key=lambda each: (shares[each], each == default))
    return best if shares[best] >= _EVEN and shares[best] > shares[default] else default


def _quotes_are_text(path: Path, reading: Reading) -> bool:
    """Whether quotes that begin cells belong to the text.

    Only files whose cells have other separators than commas are written without a rule for quotes.
    They do belong to it where every line is a row of as many cells as the first, and by the rule of
    CSV there would be fewer rows, or an error.
    """
    separator = str(reading.separator)
    if separator not in ("\t", "|"):
        return False
    width = count = quoted = 0
    for _, raw in lines(path, reading.encoding):
        if not raw.strip(separator.encode() + b" "):
            continue
        cells = raw.count(separator.encode())
        width, count = width or cells, count + 1
        if cells != width or not width:
            return False
        quoted += raw.startswith(b'"') or separator.encode() + b'"' in raw
    if not quoted:
        return False
    by_rule = 0
    for _, found in records(path, replace(reading, quotes=CSV)):
        if isinstance(found, BadLine):
            return True
        by_rule += bool(found)
    return by_rule != count


def is_header(rows: Sequence[Sequence[str]], known: Collection[str]) -> bool | None:
    """Return whether the first row names the columns; None if that cannot be seen.

    Args:
        rows: the first rows.
        known: `plain` names that columns may have.
    """
    first = [cell.strip() for cell in rows[0]]
    names = known_names(first, known)
    if (names * 2 >= len(first) and names) or _numbered(first):
        return True
    others = [cells for cells in rows[1:] if len(cells) == len(first) and [*cells] != [*rows[0]]]
    if _is_data(first, others):
        return None if names else False
    below = zip(*others, strict=True) if others else [()] * len(first)
    asks = [_asks(cell, column) for cell, column in zip(first, below, strict=True)]
    named = sum(asked or _like_a_name(cell) for cell, asked in zip(first, asks, strict=True))
    if names or named == len(first):
        return True
    return None if named else False


def known_names(cells: Sequence[str], known: Collection[str]) -> int:
    """Return how many of the cells are names that columns have.

    One letter alone is an answer; several are columns with options.
    """
    names = [plain(cell) for cell in cells]
    if sum(len(name) == 1 for name in names) == 1:
        names = [name for name in names if len(name) > 1]
    return sum(name in known or name in _BOOKKEEPING for name in names)


def _numbered(cells: Sequence[str]) -> bool:
    """Whether these are the names that pandas gives columns without any."""
    return list(cells) == [str(place) for place in range(len(cells))]


def _is_data(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether some cell of a first row is a number, a long text or, as others below it, a letter,
    or is in its column again."""
    if any(_NUMBER.fullmatch(cell) or len(cell) > _LONG for cell in first):
        return True
    seen = [{cell.strip() for cell in column} for column in zip(*others, strict=True)]
    return any(
        cell and (cell in column or {cell, *column} <= _OPTIONS)
        for cell, column in zip(first, seen, strict=False)
    )


def _asks(cell: str, column: Sequence[str]) -> bool:
    """Whether a cell asks what labels below it answer: "Enforceable?"."""
    short = len(cell.split()) <= _MOST_WORDS and len(cell) <= _LONGEST_NAME
    labels = len(column) >= _FEW and len(set(column)) * 2 <= len(column)
    asks = [each.strip().endswith(("?", "\uff1f")) for each in (cell, *column)]
    return short and labels and asks[0] and not any(asks[1:])


def abbreviated(cell: str) -> bool:
    """Return whether a text that ends like a sentence is the name of a column: Ref. No."""
    return bool(_SHORTENED.fullmatch(cell))


def _like_a_name(cell: str) -> bool:
    if abbreviated(cell):
        return True
    if not cell or len(cell) > _LONGEST_NAME or cell.endswith(_ENDS):
        # The first column of an index that pandas writes has no name.
        return not cell
    wide = len(_WIDE.findall(cell))
    return wide <= _LONGEST_WIDE and len(cell.split()) <= _MOST_WORDS
