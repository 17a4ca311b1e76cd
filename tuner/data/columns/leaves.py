"""What is inside of a row's lists and mappings: the paths into them, and what those are called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tuner.data.columns.evidence import blank
from tuner.data.fields.addressing import STAR
from tuner.schema.suggest import plain

# What is inside of a part, without a name of its own.
_INNER = frozenset(map(plain, ("text", "value", "content", "input text", "span text", "文本")))
# Lists of these names have several of which one is enough, and others one for each question.
_ANSWERS = frozenset(map(plain, ("answer", "answers", "gold answers", "答案", "回答", "参考答案")))
_QUESTIONS = frozenset(map(plain, ("questions", "queries", "problems", "问题", "题目")))


def root_of(path: str, columns: Collection[str]) -> str:
    """Return the column that a path begins in; columns may have dots in their names."""
    return path if path in columns else path.partition(".")[0]


def ends_of(path: str, columns: Collection[str]) -> set[str]:
    """Return what a path may be called: by its last name; where that is only "text" or the like, by
    what it is the text of. What is one of several is also called so.

    Args:
        path: of a column, or into one.
        columns: of the file; their names may have dots.
    """
    if path in columns:
        return {plain(path)}
    parts = [plain(part) for part in path.split(".") if part != STAR and not part.isdecimal()]
    ends = parts[-1:]
    if len(parts) > 1 and parts[-1] in _INNER:
        ends = [parts[-2]]
    return {*ends, *(each.removesuffix("s") for each in ends)}


def aligned(rows: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the columns with a list each, whose items go with the questions in one of them."""
    names = [name for row in rows[:1] for name, value in row.items() if isinstance(value, list)]
    asked = next((name for name in names if plain(name) in _QUESTIONS), None)
    if asked is None:
        return frozenset()
    lengths = {name: [_length(row.get(name)) for row in rows] for name in names}
    same = [name for name in names if lengths[name] == lengths[asked]]
    return frozenset(same if len(same) > 1 and max(lengths[asked]) > 1 else ())


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else -1


def leaves(
    row: Mapping[str, Any], together: Collection[str], every: bool = False
) -> dict[str, Any]:
    """Return the values inside a row's lists and mappings, by paths: answer.0, questions.*.q.

    Args:
        row: its values.
        together: columns with lists that go together, item by item.
        every: whether each text of any list may be a row.
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        for path, leaf in _inside(name, value, name in together, every):
            found.setdefault(path, leaf)
    return found


def _inside(
    path: str, value: Any, aligned: bool = False, every: bool = False
) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            if isinstance(key, str) and "." not in key:
                yield from _inner(f"{path}.{key}", each, every)
    elif isinstance(value, list) and value:
        if all(isinstance(each, dict) for each in value):
            several = plain(path.rpartition(".")[2]) in _ANSWERS and not aligned
            place = f"{path}.0" if several else f"{path}.{STAR}"
            for key in dict.fromkeys(key for each in value for key in each):
                items = value[:1] if several else value
                said = [each[key] for each in items if not blank(each.get(key))]
                yield from _inner(f"{place}.{key}", said[0] if said else None, every)
        elif aligned or (every and all(isinstance(each, str) for each in value)):
            yield f"{path}.{STAR}", value[0]
        elif all(isinstance(each, str) for each in value) and (
            len(value) == 1 or not ends_of(path, ()).isdisjoint(_ANSWERS)
        ):
            # Of other lists, the rest would be lost.
            yield f"{path}.0", value[0]


def _inner(path: str, value: Any, every: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        yield from _inside(path, value, every=every)
    else:
        yield path, value
