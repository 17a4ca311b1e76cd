"""The options of a question as files have them: a list, a mapping, or a text with letters."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from string import ascii_uppercase
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.fields.values import written

_TEXTS = ("text", "texts", "content", "value", "option", "choice")
_NAMES = ("label", "labels", "key", "letter", "id", "name")
# A letter in front of an option's text.
MARKED = re.compile(r"\s*[(\[（【]?\s*([A-ZＡ-Ｚa-z])\s*(?:[)\]）】.:：、．]\s*)+")
# Where the next option begins, if several are in one line.
_NEXT = re.compile(r"(?:^|(?<=[\s;；,，]))[(\[（【]?\s*([A-ZＡ-Ｚa-z])\s*[)\]）】.:：、．]")


def named(value: Any, column: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each option in a value.

    Raises:
        BadRow: there are none, or one is not text.
    """
    if isinstance(value, str):
        value = parsed(value)
    if isinstance(value, dict):
        lists = [_first(value, keys, list) for keys in (_NAMES, _TEXTS)]
        if all(isinstance(each, list) for each in lists):
            value = list(zip(*lists, strict=False))
        elif isinstance(lists[1], list):
            value = lists[1]
        else:
            value = list(value.items())
    if not isinstance(value, list):
        raise BadRow(f"the column '{column}' has no options")
    for item in value:
        if isinstance(item, dict):
            item = (_first(item, _NAMES), _first(item, _TEXTS))
        name, text = item if isinstance(item, tuple) else ("", item)
        yield plain_text(name, column).strip(), plain_text(text, column)


def parsed(text: str) -> Any:
    """Return a list or mapping written as JSON or as Python does, or options with letters."""
    for read in (json.loads, ast.literal_eval) if text.lstrip()[:1] in ("[", "{") else ():
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            if isinstance(found := read(text), list | dict):
                return found
    starts: list[int] = []
    for match in _NEXT.finditer(text):
        if ascii_letter(match[1]) == ascii_uppercase[len(starts) : len(starts) + 1]:
            starts.append(match.start())
    if not starts:
        return text
    ends = [*starts[1:], len(text)]
    return [text[a:b].strip(" \t\r\n;；,，") for a, b in zip(starts, ends, strict=True)]


def _first(value: Mapping[str, Any], keys: Sequence[str], kind: type = object) -> Any:
    return next((value[key] for key in keys if isinstance(value.get(key), kind)), None)


def plain_text(value: Any, column: str) -> str:
    """Return an option as text.

    Raises:
        BadRow: it is a list or a mapping.
    """
    if isinstance(value, list | dict):
        raise BadRow(f"an option in '{column}' is not text")
    return written(value)


def unmarked(options: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the options without the letters before their texts, if those are A, B, C in order."""
    marks = [MARKED.match(text) for _, text in options if text.strip()]
    found = "".join(ascii_letter(mark[1]) for mark in marks if mark)
    if not found or len(found) < len(marks) or found != ascii_uppercase[: len(found)]:
        return options
    return [(name, MARKED.sub("", text, count=1).strip()) for name, text in options]


def ascii_letter(letter: str) -> str:
    """Return a wide letter as the plain one."""
    return chr(ord(letter) - 0xFEE0) if ord(letter) > 0xFF00 else letter.upper()
