"""JSON as rows: duplicate keys and lone surrogates are refused, errors name line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

CONTAINERS = ("data", "instances", "examples", "rows")
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class BadLine:
    """Why a line is not a row. `column` counts from 1; `fatal` ends the file."""

    reason: str
    column: int = 0
    fatal: bool = False
    fix: str = "correct the file"


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


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


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
        return _DECODER.decode(text.strip())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_row(line: bytes, alone: bool) -> bool:
    """Return whether a file's first line is a row, as in JSON Lines, not a container of rows."""
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not (
        alone and any(isinstance(value.get(key), list) for key in CONTAINERS)
    )


def array(text: str) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """Parse a file that is one array of objects, or an object that holds one, item by item.

    A container object keeps its rows under one of `CONTAINERS`, e.g. `{"data": [...]}`.
    """
    position = _skip(text, 0)
    try:
        if text[position] == "[":
            position = yield from _items(text, position)
        elif text[position] == "{":
            position = yield from _container(text, position)
        if position := _skip(text, position):
            _expect(text, position, "", "the end of the file")
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
    position = _skip(text, start + 1)
    if text[position : position + 1] == "]":
        return position + 1
    while True:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, end = _DECODER.raw_decode(text, position)
            yield line, _as_row(value, text[position:end])
        except _Refused as error:
            yield line, BadLine(str(error))
            end = json.JSONDecoder().raw_decode(text, position)[1]
        position = _skip(text, end)
        if text[position : position + 1] == "]":
            return position + 1
        position = _expect(text, position, ",", "',' or ']'")


def _container(text: str, start: int) -> _Items:
    """Yield the rows of the object at `start`; return the position after it."""
    found = 0
    position = _expect(text, start, "{", "'{'")
    while text[position : position + 1] != "}":
        key, position = _DECODER.raw_decode(text, position)
        position = _expect(text, _skip(text, position), ":", "':'")
        if key in CONTAINERS and text[position : position + 1] == "[":
            found += 1
            position = yield from _items(text, position)
        else:
            position = _DECODER.raw_decode(text, position)[1]
        position = _skip(text, position)
        if text[position : position + 1] != "}":
            position = _expect(text, position, ",", "',' or '}'")
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


def _expect(text: str, position: int, wanted: str, name: str) -> int:
    """The position after `wanted` and white space; at the end of the text for an empty one."""
    if text[position : position + 1] != wanted:
        raise json.JSONDecodeError(f"Expecting {name}", text, position)
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _as_row(value: Any, source: str) -> dict[str, Any] | BadLine:
    if isinstance(value, list):
        value = _in_list(value)
    if not isinstance(value, dict):
        return BadLine(f"expected an object, found {_name(value)}")
    if _SURROGATE_ESCAPE.search(source) and _SURROGATE.search(
        json.dumps(value, ensure_ascii=False)
    ):
        return BadLine("a lone surrogate (\\ud800 to \\udfff) is not text")
    return value


def _in_list(value: list[Any]) -> Any:
    """The row of an array that holds nothing else, or whose items are the turns of one chat."""
    if len(value) == 1 and isinstance(value[0], dict | list):
        return value[0] if isinstance(value[0], dict) else _in_list(value[0])
    speakers = [isinstance(item, dict) and {"role", "from"} & item.keys() for item in value]
    return {"messages": value} if speakers and all(speakers) else value


def _name(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
