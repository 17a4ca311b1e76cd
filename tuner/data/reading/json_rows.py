"""JSON as rows: duplicate keys and lone surrogates are refused, errors name line and column.

A row is an object. An array is one by position, its columns named 1, 2, ...; a text is one of plain
text. Objects may be spread over several lines, and one object may hold the columns as lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from tuner.data.bad_rows import Unreadable
from tuner.data.reading.json_layout import CONTAINERS, by_column, expect, in_list, skip

_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class BadLine:
    """Why a line is not a row. `column` counts from 1; `fatal` ends the file.

    `undecodable`: it is not in the file's encoding.
    """

    reason: str
    column: int = 0
    fatal: bool = False
    fix: str = "correct the file"
    undecodable: bool = False


class _Refused(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"the key '{key}' appears twice")
            seen.add(key)
    return result


def _constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


def _unreadable(name: str) -> Unreadable:
    return Unreadable(f"{name} is not JSON")


# Of rows: NaN is an error only in a column that is used.
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_unreadable)
_STRICT = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
_ANY = json.JSONDecoder()


def parse(text: str) -> dict[str, Any] | BadLine:
    """Parse one line that must hold one JSON object."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return BadLine(error.msg, error.colno)
    except _Refused as error:
        return BadLine(str(error))
    except RecursionError:
        return BadLine("nested too deeply")
    except ValueError as error:
        return BadLine(str(error).partition(";")[0])
    return _as_row(value, text)


def decode(text: str) -> Any:
    """Parse JSON in a text, by the rules of rows.

    Raises:
        ValueError: it is not JSON, or has a key twice.
    """
    try:
        return _STRICT.decode(text.strip())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def array(text: str, lines: bool = False) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """Parse a file that is one array of rows, or an object that holds one, item by item.

    A container object keeps its rows under one of `CONTAINERS`, e.g. `{"data": [...]}`, or its
    columns as lists. Several objects after one another are rows; with `lines`, as in JSON Lines,
    a single object is a row.
    """
    position = skip(text, 0)
    try:
        if text[position] == "[":
            position = yield from _items(text, position)
        elif text[position] == "{":
            position = yield from (_sequence if lines else _container)(text, position)
        if position := skip(text, position):
            expect(text, position, "", "the end of the file")
        else:
            yield 1, BadLine("neither an array nor an object", fatal=True)
    except json.JSONDecodeError as error:
        yield error.lineno, BadLine(error.msg, error.colno, fatal=True)
    except _Refused as error:
        yield 1, BadLine(str(error), fatal=True)
    except (RecursionError, ValueError) as error:
        yield 1, BadLine(f"not readable: {type(error).__name__}", fatal=True)


_Items = Generator[tuple[int, dict[str, Any] | BadLine], None, int]


def _items(text: str, start: int) -> _Items:
    """Yield the items of the array at `start`; return the position after it."""
    line, counted = text.count("\n", 0, start) + 1, start
    position = skip(text, start + 1)
    if text[position : position + 1] == "]":
        return position + 1
    while True:
        line, counted = line + text.count("\n", counted, position), position
        item, end = _item(text, position)
        yield line, item
        position = skip(text, end)
        if text[position : position + 1] == "]":
            return position + 1
        position = expect(text, position, ",", "',' or ']'")


def _container(text: str, start: int) -> _Items:
    """Yield the rows of the object at `start`, or of it and those after it; return the position
    after them."""
    found = 0
    position = expect(text, start, "{", "'{'")
    while text[position : position + 1] != "}":
        key, position = _DECODER.raw_decode(text, position)
        position = expect(text, skip(text, position), ":", "':'")
        if key in CONTAINERS and text[position : position + 1] == "[":
            found += 1
            position = yield from _items(text, position)
        else:
            position = _DECODER.raw_decode(text, position)[1]
        position = skip(text, position)
        if text[position : position + 1] != "}":
            position = expect(text, position, ",", "',' or '}'")
    if found == 0 and skip(text, position + 1) < len(text):
        return (yield from _sequence(text, start))
    if not found and by_column(_DECODER.raw_decode(text, start)[0]):
        return (yield from _sequence(text, start))
    if found != 1:
        yield (
            1,
            BadLine(
                f"expected one array of rows ({', '.join(CONTAINERS)}), found {found}",
                fatal=True,
                fix="put the rows in one array, or one object per line in a .jsonl file",
            ),
        )
    return position + 1


def _sequence(text: str, position: int) -> _Items:
    """Yield rows that follow one another from `position` on; return the end of the text."""
    value, end = _item(text, position)
    alone = skip(text, end) == len(text)
    rows = by_column(value) if isinstance(value, dict) and alone else []
    for row in rows:
        yield 1, row
    if rows:
        return len(text)
    line, counted = 1, 0
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        item, end = _item(text, position)
        yield line, item
        position = skip(text, end)
    return position


def _item(text: str, position: int) -> tuple[dict[str, Any] | BadLine, int]:
    """The row at a position, and the position after it."""
    try:
        value, end = _DECODER.raw_decode(text, position)
        return _as_row(value, text[position:end]), end
    except _Refused as error:
        return BadLine(str(error)), _ANY.raw_decode(text, position)[1]


def _as_row(value: Any, source: str) -> dict[str, Any] | BadLine:
    if isinstance(value, list):
        value = in_list(value)
    if isinstance(value, list) and value:
        value = {str(place): item for place, item in enumerate(value, 1)}
    elif isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        return BadLine(f"expected an object, found {_name(value)}")
    if _SURROGATE_ESCAPE.search(source) and _SURROGATE.search(
        json.dumps(value, ensure_ascii=False, default=str)
    ):
        return BadLine("a lone surrogate (\\ud800 to \\udfff) is not text")
    return value


def _name(value: Any) -> str:
    names = {list: "an empty array", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
