"""YAML 1.2 as a recipe needs it: line numbers, no duplicate keys, no surprises of YAML 1.1.

Plain (unquoted) scalars stay text, as `Plain`, until the type of the field that receives them is
known: `no`, `012` and `12:30` are words where a word is wanted, and `1e-4` is a number where a
number is wanted. Anchors, aliases, tags and merge keys are refused: a recipe is short, and each of
them makes it mean something other than what it shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
# A text that needs no quotes, whatever is around it.
_BARE = re.compile(r"(?:[^\W\d]|[./](?=[\w./]))[\w./~*+-]*(?: [\w./~*+-]+)*")
# What YAML takes for the end of a line, or for nothing at all, and JSON for a character.
_ODD = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
MAX_BYTES = 1 << 20
MAX_DEPTH = 32


class Plain(str):
    """An unquoted scalar, exactly as written."""

    __slots__ = ()


class YamlProblem(ValueError):
    """The text is not YAML that is accepted. `line` and `column` count from 1."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


def parse(text: str, quick: bool = False) -> tuple[Any, dict[Path, int]]:
    """Return the document and the line of every key and item, by its path.

    Mappings become dicts with text keys, sequences lists, unquoted scalars `Plain` (null and empty
    become None), quoted ones `str`. An empty document is None.

    Args:
        text: the document.
        quick: let libyaml read it where PyYAML has it: ten times as fast, with other messages. For
            files that come with the program.

    Raises:
        YamlProblem: syntax error, tab indentation, duplicate key, anchor, alias or tag.
    """
    if len(text) > MAX_BYTES:
        raise YamlProblem("the file is larger than 1 MiB")
    lines: dict[Path, int] = {}
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if quick else yaml.SafeLoader
        _refuse_indirection(text, loader)
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = error.problem or error.context or "not valid YAML"
        if "'\\t'" in message:
            message = "a tab is used where YAML needs spaces; indent with spaces"
        raise YamlProblem(message, *where) from None
    except yaml.YAMLError as error:
        raise YamlProblem(str(error).splitlines()[0]) from None
    return (None if node is None else _construct(node, (), lines)), lines


def parse_value(text: str) -> Any:
    """Parse one value as `--set key=value` gives it; lists and mappings in flow style work too."""
    return parse(text)[0]


def resolve(value: Any) -> Any:
    """Resolve values that no schema types (free-form mappings) by the YAML 1.2 core schema."""
    if isinstance(value, dict):
        return {key: resolve(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if value in ("true", "false"):
        return value == "true"
    if _INT.match(value):
        return int(value)
    if _FLOAT.match(value):
        return float(value)
    return str(value)


def number(text: str) -> float | None:
    """Return the number that a text is in YAML 1.2 (`1e-4` and `.5` too), or None."""
    return float(text) if _FLOAT.match(text) else None


def flow(value: Any) -> str:
    """Return a value as a line of a recipe has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # Readers of YAML 1.1 take no number for one that has an exponent and no point.
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    word = value.lower() != "null" and isinstance(resolve(Plain(value)), str)
    if word and _BARE.fullmatch(value):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _ODD.sub(lambda odd: f"\\u{ord(odd[0]):04x}", quoted)


def _refuse_indirection(text: str, loader: Any) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        mark = event.start_mark
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise YamlProblem("nested too deeply", *_at(mark))
        if getattr(event, "anchor", None) is not None:
            raise YamlProblem("anchors (&) and aliases (*) are not accepted", *_at(mark))
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise YamlProblem(f"tags are not accepted: {tag}", *_at(mark))


def _at(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _construct(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlProblem("a key must be a word", *_at(key_node.start_mark))
            key = str(key_node.value)
            here = (*path, key)
            if key == "<<" and not key_node.style:
                raise YamlProblem("merge keys (<<) are not accepted", *_at(key_node.start_mark))
            if here in lines:
                line, column = _at(key_node.start_mark)
                raise YamlProblem(
                    f"the key '{key}' appears twice: line {lines[here]} and line {line}",
                    line,
                    column,
                )
            lines[here] = key_node.start_mark.line + 1
            result[key] = _construct(value_node, here, lines)
        return result
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            items.append(_construct(item, (*path, index), lines))
        return items
    if not getattr(node, "style", None):
        # None; of libyaml, an empty text.
        return None if node.value in ("", "~", "null") else Plain(node.value)
    return str(node.value)
