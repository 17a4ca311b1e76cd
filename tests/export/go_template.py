"""Just enough of Go's text/template, and of how Ollama runs one, to try our Modelfiles.

Written from Go's documentation and from what Ollama does with a template that names `.Messages`
(template/template.go): `.System` is the text of all system turns, turns of one role that follow
each other are one. Anything else is an error here, as it is untried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Nodes = list[Any]


def prompt(modelfile: str, turns: list[dict[str, Any]]) -> str:
    """What Ollama sends for a chat, by the Modelfile's TEMPLATE."""
    match = re.search(r'^TEMPLATE """(.*?)"""$', modelfile, re.S | re.M)
    assert match is not None
    collated: list[dict[str, Any]] = []
    for turn in turns:
        if collated and collated[-1]["Role"] == turn["role"]:
            collated[-1]["Content"] += "\n\n" + turn["content"]
        else:
            collated.append({"Role": turn["role"], "Content": turn["content"]})
    system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
    return execute(match[1], {"System": system, "Messages": collated})


def execute(source: str, data: dict[str, Any]) -> str:
    """Run a template on data."""
    parts = iter(re.split(r"\{\{ (.*?) \}\}", source))
    nodes, end = _parse(parts, next(parts))
    assert end == "", f"a stray {end}"
    out: list[str] = []
    _run(nodes, data, {}, out)
    return "".join(out)


def _parse(parts: Iterator[str], text: str) -> tuple[Nodes, str]:
    """Read nodes up to an `end` or `else`, which is returned."""
    nodes: Nodes = [text]
    for action in parts:
        word, _, rest = action.partition(" ")
        if word in ("end", "else"):
            return nodes, action
        if word == "range":
            inner, end = _parse(parts, next(parts))
            assert end == "end"
            nodes.append(("range", rest, inner))
        elif word == "if":
            nodes.append(_branch(parts, rest))
        else:
            nodes.append(("do", action))
        nodes.append(next(parts))
    return nodes, ""


def _branch(parts: Iterator[str], condition: str) -> tuple[str, str, Nodes, Nodes]:
    inner, end = _parse(parts, next(parts))
    other: Nodes = []
    if end.startswith("else if "):
        other = [_branch(parts, end.removeprefix("else if "))]
    elif end == "else":
        other, end = _parse(parts, next(parts))
        assert end == "end"
    return "if", condition, inner, other


def _value(term: str, dot: Any, names: dict[str, Any]) -> Any:
    if term.startswith('"'):
        return term[1:-1]
    if term in ("true", "false"):
        return term == "true"
    if term.startswith("$"):
        return names[term]
    assert re.fullmatch(r"\.[A-Z]\w*", term), term
    return dot[term[1:]]


def _holds(condition: str, dot: Any, names: dict[str, Any]) -> bool:
    words = condition.split(" ")
    if words[0] == "eq":
        return bool(_value(words[1], dot, names) == _value(words[2], dot, names))
    return bool(_value(condition, dot, names))


def _run(nodes: Nodes, dot: Any, names: dict[str, Any], out: list[str]) -> None:
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        elif node[0] == "range":
            for each in _value(node[1], dot, names):
                _run(node[2], each, names, out)
        elif node[0] == "if":
            _run(node[2] if _holds(node[1], dot, names) else node[3], dot, names, out)
        elif " = " in node[1] or " := " in node[1]:
            name, sign, term = node[1].split(" ")
            # Only a declared name can be given another value.
            assert (name in names) == (sign == "=")
            names[name] = _value(term, dot, names)
        else:
            out.append(str(_value(node[1], dot, names)))
