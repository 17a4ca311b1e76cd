"""JSON as rows: duplicate keys and lone surrogates are refused, errors name line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CONTAINERS = ("data", "instances", "examples", "rows")
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class BadLine:
    """Why a line is no row. `column` counts from 1; `fatal` ends the file."""

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
                raise _Refused(f"the key '{key}' stands twice")
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


def is_row(line: bytes) -> bool:
    """Whether a line is by itself a JSON object that is a row, as in JSON Lines."""
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not any(
        isinstance(value.get(key), list) for key in CONTAINERS
    )


def array(text: str) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """Parse a file that is one array of objects, or an object that holds one, item by item.

    A container object keeps its rows under one of `CONTAINERS`, e.g. `{"data": [...]}`.
    """
    try:
        start = _find_array(text)
        if start is None:
            yield (
                1,
                BadLine(
                    f"neither an array of objects nor an object with one under {CONTAINERS}",
                    fatal=True,
                    fix="put the rows in an array, or one object a line in a .jsonl file",
                ),
            )
            return
        yield from _items(text, start)
    except json.JSONDecodeError as error:
        yield error.lineno, BadLine(error.msg, error.colno, fatal=True)
    except _Refused as error:
        yield 1, BadLine(str(error), fatal=True)


def _items(text: str, start: int) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    position = _skip(text, start + 1)
    line, counted = 1, 0
    if text[position : position + 1] == "]":
        return
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
            return
        if text[position : position + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        position = _skip(text, position + 1)


def _find_array(text: str) -> int | None:
    position = _skip(text, 0)
    if text[position] == "[":
        return position
    if text[position] != "{":
        return None
    position = _skip(text, position + 1)
    while text[position : position + 1] == '"':
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position : position + 1] != ":":
            raise json.JSONDecodeError("Expecting ':'", text, position)
        position = _skip(text, position + 1)
        if key in CONTAINERS and text[position : position + 1] == "[":
            return position
        position = _skip(text, _DECODER.raw_decode(text, position)[1])
        if text[position : position + 1] != ",":
            return None
        position = _skip(text, position + 1)
    return None


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _as_row(value: Any, source: str) -> dict[str, Any] | BadLine:
    if not isinstance(value, dict):
        return BadLine(f"expected an object, found {_name(value)}")
    if _SURROGATE_ESCAPE.search(source) and _has_surrogate(value):
        return BadLine("a lone surrogate (\\ud800 to \\udfff) is not text")
    return value


def _name(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return any(_has_surrogate(key) or _has_surrogate(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_surrogate(item) for item in value)
