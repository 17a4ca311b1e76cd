"""Files to rows: JSON Lines, JSON, CSV, TSV, text and Parquet, read by ourselves.

Rows are parsed one at a time with the standard library, never through Arrow, so that a row holds
exactly the keys that are in the file and its types do not depend on other rows. Lines end at
`\\n`, `\\r\\n` and `\\r` only, and text is UTF-8 whatever the locale.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from tuner.data import json_rows
from tuner.data.bad_rows import BadRows
from tuner.data.json_rows import BadLine
from tuner.errors import DataError
from tuner.machine import packages

MAX_CSV_FIELD = (1 << 31) - 1
_LINE_END = re.compile(rb"\r\n|\r|\n")


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
    """

    path: Path
    line: int
    values: dict[str, Any]
    cut_characters: int = 0
    place: int = 1
    source: int = 0
    name: str = ""

    @property
    def id(self) -> str:
        """The file's name and the line, with the place where it is not the first."""
        again = f"[{self.place}]" if self.place > 1 else ""
        return f"{self.name or self.path.name}:{self.line}{again}"


def find(name: str, folder: Path, what: str) -> Path:
    """Find the file that a recipe names: looked up in the recipe's folder, else in the current one.

    Raises:
        DataError: it is in neither; names both places and files with a similar name.
    """
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() else [folder / path, Path.cwd() / path]
    for place in places:
        if place.is_file():
            return place
    near = [
        str(place.parent / close)
        for place in dict.fromkeys(places)
        if place.parent.is_dir()
        for close in get_close_matches(place.name, [p.name for p in place.parent.iterdir()])
    ]
    if any(place.is_dir() for place in places):
        raise DataError(f"{what}: '{name}' is a folder", fix="name the files in it")
    tried = " nor ".join(dict.fromkeys(str(place) for place in places))
    raise DataError(
        f"{what}: there is no file '{name}'",
        f"found neither {tried}" if " nor " in tried else f"not found: {tried}",
        f"did you mean {', '.join(dict.fromkeys(near))}?" if near else "check the path",
    )


def read(path: Path, bad: BadRows, max_rows: int | None = None) -> Iterator[Row]:
    """Yield the rows of a file, in order.

    Args:
        path: the file; the suffix says the format.
        bad: receives the rows that cannot be read.
        max_rows: stop after this many rows.

    Raises:
        DataError: unknown format or encoding, a broken file, or too many bad rows.
    """
    return islice(_rows(path, bad), max_rows)


def cut(row: Row, most: int) -> None:
    """Cut the row's texts to this many characters, and record in it by how much."""
    row.values = _cut(row.values, most, row)


def _rows(path: Path, bad: BadRows) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise DataError(
            f"the format of {path} is not known",
            f"its name ends in '{suffix}'",
            f"use one of {', '.join(READERS)}",
        )
    _refuse_encodings(path)
    last, place = 0, 1
    for line, item in READERS[suffix](path):
        last, place = line, place + 1 if line == last else 1
        if isinstance(item, BadLine):
            where = f"{path}, line {line}" + (f", column {item.column}" if item.column else "")
            if item.fatal:
                raise DataError(f"{path} cannot be read", f"{where}: {item.reason}", item.fix)
            bad.add_unreadable(where, item.reason)
        else:
            yield Row(path, line, item, place=place)


def _refuse_encodings(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
    name = ""
    if start.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        name = "UTF-32"
    elif start.startswith((b"\xff\xfe", b"\xfe\xff")) or (
        len(start) >= 2 and (start[0] == 0) != (start[1] == 0)
    ):
        name = "UTF-16"
    if name:
        raise DataError(
            f"{path} is encoded in {name}", "only UTF-8 is read", "save the file as UTF-8"
        )


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of every line, without its end and without a byte order mark."""
    number = 0
    with path.open("rb") as file:
        for chunk in file:
            if number == 0:
                chunk = chunk.removeprefix(b"\xef\xbb\xbf")
            chunk = chunk.removesuffix(b"\n").removesuffix(b"\r")
            for line in _LINE_END.split(chunk) if b"\r" in chunk else (chunk,):
                number += 1
                yield number, line


Item = tuple[int, dict[str, Any] | BadLine]


def _decode(line: bytes) -> str | BadLine:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadLine(
            f"not UTF-8 (byte 0x{line[error.start]:02x})",
            error.start + 1,
            fix="save the file as UTF-8",
        )


def _jsonl(path: Path) -> Iterator[Item]:
    for number, raw in lines(path):
        if raw and not raw.isspace():
            text = _decode(raw)
            yield number, json_rows.parse(text) if isinstance(text, str) else text


def _json(path: Path) -> Iterator[Item]:
    first = list(islice((line for _, line in lines(path) if line.strip()), 2))
    if first and json_rows.is_row(first[0], alone=len(first) == 1):
        yield from _jsonl(path)
        return
    text = _decode(_LINE_END.sub(b"\n", path.read_bytes().removeprefix(b"\xef\xbb\xbf")))
    if isinstance(text, BadLine):
        yield 1, BadLine("not UTF-8", fatal=True, fix="save the file as UTF-8")
    elif text.strip():
        yield from json_rows.array(text)


def _text(path: Path) -> Iterator[Item]:
    for number, raw in lines(path):
        text = _decode(raw)
        if isinstance(text, BadLine):
            yield number, text
        elif text.strip():
            yield number, {"text": text}


def _table(path: Path, delimiter: str) -> Iterator[Item]:
    def decoded() -> Iterator[str]:
        for _, raw in lines(path):
            text = _decode(raw)
            if isinstance(text, BadLine):
                raise csv.Error(text.reason)
            yield text + "\n"

    csv.field_size_limit(MAX_CSV_FIELD)
    reader = csv.reader(decoded(), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            if not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) != len(header):
                    yield start, BadLine("a column name appears twice", fatal=True)
            elif len(cells) == len(header):
                yield start, dict(zip(header, cells, strict=True))
            elif cells:
                yield start, BadLine(f"{len(cells)} cells where the header has {len(header)}")
            start = reader.line_num + 1
    except csv.Error as error:
        yield start, BadLine(str(error), fatal=True, fix="check the quotes and the encoding")


def _parquet(path: Path) -> Iterator[Item]:
    try:
        pyarrow = import_module("pyarrow")
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            f"{path} needs pyarrow", "Parquet files are read with it", packages.install("pyarrow")
        ) from None
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=256):
            for values in batch.to_pylist():
                number += 1
                yield number, _without_nulls(values)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path} is not a readable Parquet file", str(error).partition("\n")[0]
        ) from None


def _without_nulls(value: Any) -> Any:
    """Parquet gives every struct every field; those that a row does not have are null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
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
