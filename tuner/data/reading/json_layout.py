"""How the rows of a JSON file are laid out: a line each, over several lines, or by columns."""

from __future__ import annotations

import json
import re
from typing import Any

CONTAINERS = ("data", "instances", "examples", "rows")
# A turn of a chat has one of these keys.
_TURN = {"role", "from"}
_SPACE = re.compile(r"[ \t\n\r]*")
_ANY = json.JSONDecoder()


def is_row(line: bytes, alone: bool) -> bool:
    """Return whether a file's first line is a row, as in JSON Lines, not a container of rows."""
    value = _value(line)
    if not isinstance(value, dict):
        return isinstance(value, list) and not alone
    held = any(isinstance(value.get(key), list) for key in CONTAINERS)
    return not (alone and (held or by_column(value)))


def holds_rows(line: bytes) -> bool:
    """Return whether the only line of a file of JSON Lines is an array of rows, or the columns."""
    value = _value(line)
    if isinstance(value, dict):
        return bool(by_column(value))
    return (
        isinstance(value, list)
        and len(value) > 1
        and any(all(isinstance(item, kind) for item in value) for kind in (dict, list))
        and isinstance(in_list(value), list)
    )


def is_spread(text: str) -> bool:
    """Return whether a text, whose first line is no JSON, begins with rows over several lines.

    These are an array of rows, or objects that are written over several lines each. `text` may be
    cut after its second row.
    """
    try:
        position = skip(text, 0)
        if text[position : position + 1] == "{":
            return "\n" in text[position : _ANY.raw_decode(text, position)[1]]
        position = expect(text, position, "[", "'['")
        for _ in range(2):
            position = skip(text, _ANY.raw_decode(text, position)[1])
            if text[position : position + 1] == "]":
                break
            position = expect(text, position, ",", "','")
    except (ValueError, RecursionError):
        return False
    return True


def is_json(line: bytes) -> bool:
    """Return whether a line that begins an object or an array is a whole one."""
    return _value(line) is not None


def _value(line: bytes) -> Any:
    if not line.lstrip().startswith((b"{", b"[")):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def by_column(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of an object that holds a table by columns; none, if it does not.

    Each column is a list of as many values, at least two, none of them a turn of a chat; or, as
    pandas writes it, an object of values by number. Some column holds texts.
    """
    columns = list(value.values())
    if columns and all(isinstance(column, dict) for column in columns):
        numbers = list(columns[0])
        if not all(number.isdigit() for number in numbers):
            return []
        # Where the numbers differ, so do the lengths of what is left.
        columns = [list(column.values()) if [*column] == numbers else [] for column in columns]
    elif len(columns) < 2 or not all(_plain(column) for column in columns):
        return []
    if len({len(column) for column in columns}) != 1 or len(columns[0]) < 2:
        return []
    if not any(all(isinstance(item, str) for item in column) for column in columns):
        # Lists of numbers are token ids rather than columns.
        return []
    return [dict(zip(value, items, strict=True)) for items in zip(*columns, strict=True)]


def _plain(column: Any) -> bool:
    """Whether it is a list without turns of a chat."""
    return isinstance(column, list) and not any(
        isinstance(item, dict) and _TURN & item.keys() for item in column
    )


def in_list(value: list[Any]) -> Any:
    """Return the row of an array that holds nothing else, or whose items are the turns of one chat.

    Any other array is returned as it is.
    """
    if len(value) == 1 and isinstance(value[0], dict | list):
        return value[0] if isinstance(value[0], dict) else in_list(value[0])
    speakers = [isinstance(item, dict) and bool(_TURN & item.keys()) for item in value]
    return {"messages": value} if speakers and all(speakers) else value


def expect(text: str, position: int, wanted: str, name: str) -> int:
    """Return the position after `wanted` and white space; `wanted` is empty at the end of the text.

    Raises:
        json.JSONDecodeError: something else is there.
    """
    if text[position : position + 1] != wanted:
        raise json.JSONDecodeError(f"Expecting {name}", text, position)
    return skip(text, position + 1)


def skip(text: str, position: int) -> int:
    """Return the position after white space."""
    found = _SPACE.match(text, position)
    return found.end() if found else position
