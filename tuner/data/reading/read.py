"""Files to rows: JSON Lines, JSON, CSV, TSV, text and Parquet, read by ourselves.

Rows are parsed one at a time with the standard library, never through Arrow, so that a row holds
exactly the keys that are in the file and its types do not depend on other rows. Text is UTF-8
whatever the locale, unless the recipe names another encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRows
from tuner.data.reading import (
    documents,
    json_layout,
    json_rows,
    label_lines,
    marked_lines,
    other_kinds,
    parquet,
    table,
    table_guess,
)
from tuner.data.reading.json_rows import BadLine
from tuner.data.reading.lines import UTF8, decode, lines, refuse_pointer, refuse_wide, seen, text_of
from tuner.data.reading.table import Reading, positions
from tuner.errors import DataError, RecipeError
from tuner.schema.suggest import listed

# The separator that each kind of table has unless its first rows show another.
TABLES = {".csv": ",", ".tsv": "\t"}
# Bytes of a file in which rows over several lines are looked for.
_SAMPLE = 1 << 23


@dataclass
class Row:
    """One row of a file.

    Args:
        path: the file.
        line: the line on which the row starts.
        values: by column.
        cut_characters: how much longer its texts are in the file.
        place: its number among the rows that start on this line.
        source: the number of its source among those of its split; the first, if it is there twice.
        name: what its file is called; by default the name without the folder.
        item: the path of the item of the file's row that it is made of, if not of the whole row.
    """

    path: Path
    line: int
    values: dict[str, Any]
    cut_characters: int = 0
    place: int = 1
    source: int = 0
    name: str = ""
    item: str = ""

    @property
    def id(self) -> str:
        """The file's name and the line, with the place where it is not the first, and the item."""
        again = f"[{self.place}]" if self.place > 1 else ""
        item = f" {self.item}" if self.item else ""
        return f"{self.name or self.path.name}:{self.line}{again}{item}"


def settle(
    path: Path, asked: Reading, known: Callable[[], Collection[str]] = frozenset
) -> tuple[Reading, list[str]]:
    """Find out how a file is read.

    Args:
        path: the file, whose suffix says the format; or a folder of documents.
        asked: what the recipe says.
        known: returns `plain` names that the columns of a header may have.

    Returns:
        The reading, whole, and what was seen in the file that is not the rule.

    Raises:
        DataError: unknown format or encoding, or a first row that may or may not be a header.
        RecipeError: keys of tables for a file that is none.
    """
    folder = path.is_dir()
    for file in documents.documents(path) if folder else [path]:
        refuse_pointer(file)
        if asked.encoding == UTF8 and file.suffix.lower() != ".parquet":
            refuse_wide(file, lambda name: asked.line(encoding=name))
    suffix = path.suffix.lower()
    if not folder and suffix not in READERS:
        raise other_kinds.unknown(path, READERS)
    default = TABLES.get(suffix, asked.separator)
    if default is not None and suffix in (*TABLES, ".txt") and not folder:
        return table_guess.settle(path, asked, default, known)
    keys = {name: getattr(asked, name) for name in ("separator", "header", "quotes")}
    if suffix == ".parquet" and asked.encoding != UTF8:
        keys["encoding"] = asked.encoding
    if named := [name for name, value in keys.items() if value is not None]:
        raise RecipeError(
            f"data.{asked.key}: {listed(named)} of {path.name}, which has no such thing",
            "tables (.csv, .tsv, .txt with a separator) have all of these, other texts an encoding",
            "leave it out" if len(named) == 1 else "leave them out",
        )
    return asked, []


class NotUtf8(DataError):
    """A file that is in another encoding than the recipe says; `encoding` is what it seems."""

    encoding = ""


def read(
    path: Path, bad: BadRows, max_rows: int | None = None, reading: Reading | None = None
) -> Iterator[Row]:
    """Yield the rows of a file, in order.

    Args:
        path: the file, whose suffix says the format; or a folder, whose documents are its rows.
        bad: receives the rows that cannot be read.
        max_rows: stop after this many rows.
        reading: as `settle` returns it; by default, what that sees.

    Raises:
        DataError: unknown format or encoding, a broken file, or too many bad rows.
    """
    return islice(_rows(path, bad, reading or settle(path, Reading(path.name))[0]), max_rows)


def cut(row: Row, most: int) -> None:
    """Cut the row's texts to this many characters, and record in it by how much."""
    row.values = _cut(row.values, most, row)


def _rows(path: Path, bad: BadRows, reading: Reading) -> Iterator[Row]:
    if path.is_dir():
        yield from _documents(path, bad, reading)
        return
    last, place, arrays = 0, 1, None
    for line, item in READERS[path.suffix.lower()](path, reading):
        last, place = line, place + 1 if line == last else 1
        where = f"{path}, line {line}"
        if isinstance(item, BadLine):
            where += f", column {item.column}" if item.column else ""
            item, name = _read_otherwise(item, path, reading)
            try:
                if item.fatal:
                    raise DataError(f"{path} cannot be read", f"{where}: {item.reason}", item.fix)
                bad.add_unreadable(where, item.reason, item.fix if item.undecodable else "", line)
            except DataError as error:
                raise _in_encoding(error, name) if name else error from None
            continue
        array = list(item) == positions(len(item))
        arrays = array if arrays is None else arrays
        if array == arrays:
            yield Row(path, line, item, place=place)
        else:
            words = ("an object", "an array") if array else ("an array", "an object")
            bad.add_unreadable(where, "expected {}, as before, found {}".format(*words), line=line)


def _documents(folder: Path, bad: BadRows, reading: Reading) -> Iterator[Row]:
    """The documents of a folder, numbered; an empty one is no row."""
    for number, (file, text) in enumerate(documents.texts(folder, reading.encoding), 1):
        if isinstance(text, BadLine):
            text, _ = _read_otherwise(text, file, reading)
            bad.add_unreadable(str(file), text.reason, text.fix, number)
        elif text.strip():
            name = file.relative_to(folder).as_posix()
            yield Row(folder, number, {"text": text}, item=name)


def _read_otherwise(item: BadLine, file: Path, reading: Reading) -> tuple[BadLine, str]:
    """A line that is not UTF-8 with what it says in the encoding that its file seems to have, and
    the name of that."""
    if not item.undecodable or reading.encoding != UTF8:
        return item, ""
    name, text = seen(file)
    reason = f"{item.reason}; read as {name} it says '{text}'"
    fix = f"if that is right: {reading.line(encoding=name)}"
    return replace(item, reason=reason, fix=fix), name


def _in_encoding(error: DataError, name: str) -> NotUtf8:
    found = NotUtf8(error.what, error.why, error.fix, error.problems)
    found.encoding = name
    return found


Item = tuple[int, dict[str, Any] | BadLine]


def _jsonl(path: Path, reading: Reading) -> Iterator[Item]:
    if _is_whole(path, reading.encoding):
        yield from _whole(path, reading, lines=True)
        return
    for number, raw in lines(path, reading.encoding):
        if raw and not raw.isspace():
            text = decode(raw)
            yield number, json_rows.parse(text) if isinstance(text, str) else text


def _is_whole(path: Path, encoding: str) -> bool:
    """Whether a file of JSON Lines is none: an array of rows, or rows over several lines each."""
    first = _first(path, encoding)
    if not first or not first[0].lstrip().startswith((b"{", b"[")):
        return False
    if json_layout.is_json(first[0]):
        return len(first) == 1 and json_layout.holds_rows(first[0])
    sample, size = [], 0
    for _, raw in lines(path, encoding):
        sample.append(raw)
        size += len(raw)
        if size > _SAMPLE:
            break
    return json_layout.is_spread(b"\n".join(sample).decode(errors="replace"))


def _json(path: Path, reading: Reading) -> Iterator[Item]:
    first = _first(path, reading.encoding)
    rows = first and json_layout.is_row(first[0], alone=len(first) == 1)
    yield from (_jsonl if rows else _whole)(path, reading)


def _first(path: Path, encoding: str) -> list[bytes]:
    """The first two lines that are not blank."""
    return list(islice((line for _, line in lines(path, encoding) if line.strip()), 2))


def _whole(path: Path, reading: Reading, lines: bool = False) -> Iterator[Item]:
    text = text_of(path, reading.encoding)
    if isinstance(text, BadLine):
        yield 1, replace(text, fatal=True, column=0)
    elif text.strip():
        yield from json_rows.array(text, lines)


def _text(path: Path, reading: Reading) -> Iterator[Item]:
    if reading.separator is not None:
        yield from table.rows(path, reading)
        return
    if reading.turns:
        yield from marked_lines.rows(path, reading.encoding)
        return
    if reading.labels:
        yield from label_lines.rows(path, reading.encoding)
        return
    for number, raw in lines(path, reading.encoding):
        text = decode(raw)
        if isinstance(text, BadLine):
            yield number, text
        elif text.strip():
            yield number, {"text": text}


def _parquet(path: Path, reading: Reading) -> Iterator[Item]:
    return parquet.rows(path)


READERS: dict[str, Callable[[Path, Reading], Iterator[Item]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": table.rows,
    ".tsv": table.rows,
    ".txt": _text,
    ".parquet": _parquet,
}


def _cut(value: Any, limit: int, row: Row) -> Any:
    if isinstance(value, str) and len(value) > limit:
        row.cut_characters += len(value) - limit
        return value[:limit]
    if isinstance(value, dict):
        return {key: _cut(item, limit, row) for key, item in value.items()}
    return [_cut(item, limit, row) for item in value] if isinstance(value, list) else value
