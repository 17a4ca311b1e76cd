"""Paths of a recipe into the values of rows: `answer.0`, `meta.id`, `questions.*.q`; and texts that
join several of them: `title + body`.

What a path leads to becomes a column with the path's name. It takes the place of the column that
the path begins in, together with whatever else the objects on the way hold, so that nothing is left
out unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.data import joined, json_rows
from tuner.data.bad_rows import BadRow, Unreadable
from tuner.data.read import Row
from tuner.errors import RecipeError
from tuner.schema.suggest import listed

STAR = "*"
_KINDS = {bool: "true or false", str: "text", list: "a list", dict: "an object"}


@dataclass
class _Node:
    """A place in a row: whether a path ends here, and the parts that lead on."""

    end: bool = False
    next: dict[str, _Node] = field(default_factory=dict)


@dataclass
class Paths:
    """The paths into the values of one source's rows.

    Attributes:
        names: the columns that the recipe names; those with dots are paths.
        key: the recipe's key, for messages.
        rows: rows of the file with items that became rows, for the path with a star.
        items: rows that they became.
        empty: rows of the file without any.
        refused: the first row that a path does not go through, and why.
        missed: for each path that no row has so far, what the first row has instead.

    Raises:
        RecipeError: paths with stars do not go together.
    """

    names: Collection[str]
    key: str
    rows: int = 0
    items: int = 0
    empty: int = 0
    refused: str = ""
    missed: dict[str, str] = field(default_factory=dict)
    _found: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._texts = {name: found for name in self.names if (found := joined.parts(name))}
        single = [name for name in self.names if name not in self._texts]
        every = [*single, *(part for found in self._texts.values() for part in found)]
        self._paths = [name for name in dict.fromkeys(every) if "." in name]
        starred = [name for name in self._paths if STAR in name.split(".")]
        stars = {name.partition(f".{STAR}")[0] for name in starred}
        if len(stars) > 1 or any(name.split(".").count(STAR) > 1 for name in starred):
            raise RecipeError(
                f"{self.key}: {listed([f'{name!r}' for name in starred])} do not go together"
                if len(starred) > 1
                else f"{self.key}: '{starred[0]}' has more than one *",
                "each item of one list becomes a row, so all paths with a * need the same one",
                "use one list with a *, and places counted from 0 in others",
            )
        self.star = next(iter(stars), "")
        self._root = _tree(self._paths)

    def restart(self) -> None:
        """Count again, from the first row of the file."""
        self.rows = self.items = self.empty = 0

    def spread(self, row: Row) -> Iterator[Row]:
        """Yield the row with a column for each path or, where one has a star, one for each item;
        and with the texts that join columns.

        Raises:
            BadRow: a path leads through a value that is neither an object nor a list.
        """
        for each in self._spread(row):
            # A column that is called like a text of several comes first.
            texts = {n: found for n, found in self._texts.items() if n not in each.values}
            if not texts:
                yield each
                continue
            for part in [part for found in texts.values() for part in found]:
                why = f"{each.id}: its columns are {', '.join(each.values)}"
                self._seen(part, part in each.values, why)
            yield replace(each, values=joined.with_texts(each.values, texts, self.names))

    def _spread(self, row: Row) -> Iterator[Row]:
        literal = [name for name in self._paths if name in row.values]
        root = _tree([n for n in self._paths if n not in literal]) if literal else self._root
        if not root.next:
            yield row
        elif not self.star or self.star.partition(".")[0] not in row.values:
            yield replace(row, values=self._values(row, root))
        else:
            items = _items(row.values, self.star)
            self.rows, self.items = self.rows + 1, self.items + len(items)
            self.empty += not items
            for place in range(len(items)):
                values = self._values(row, root, place)
                yield replace(row, values=values, item=f"{self.star}.{place}")

    def _values(self, row: Row, root: _Node, item: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in row.values.items():
            node = root.next.get(name)
            if node is None or name in self.names:
                found[name] = value
            if node is not None:
                for path, each in _below(value, node, name, item):
                    found.setdefault(path, each)
        self._note(row, found)
        return found

    def _note(self, row: Row, found: dict[str, Any]) -> None:
        """Keep what a row has in place of a path that no row has had yet."""
        for path in self._paths:
            base = path.partition(".")[0]
            if path in found or row.values.get(base) is not None:
                why = "" if path in found else _described(row.values[base], base)
                self._seen(path, path in found, f"{row.id}: {why}")

    def _seen(self, path: str, there: bool, why: str) -> None:
        if there:
            self._found.add(path)
            self.missed.pop(path, None)
        elif path not in self._found:
            self.missed.setdefault(path, why)


def _tree(paths: Iterable[str]) -> _Node:
    root = _Node()
    for path in paths:
        node = root
        for part in path.split("."):
            node = node.next.setdefault(part, _Node())
        node.end = True
    return root


def _below(value: Any, node: _Node, name: str, item: int | None) -> Iterator[tuple[str, Any]]:
    """Yield what the paths from a value on lead to, and what is next to it in objects."""
    if node.end:
        yield name, value
    if not node.next or value is None or isinstance(value, Unreadable):
        return
    value = _opened(value)
    if isinstance(value, dict):
        for key, each in value.items():
            below = node.next.get(key)
            if below is None:
                yield f"{name}.{key}", each
            else:
                yield from _below(each, below, f"{name}.{key}", item)
    elif isinstance(value, list):
        for part, below in node.next.items():
            place = _place(part, item, name)
            if place < len(value):
                yield from _below(value[place], below, f"{name}.{part}", item)
    else:
        raise _not_open(value, name, next(iter(node.next)))


def _place(part: str, item: int | None, name: str) -> int:
    if part == STAR and item is not None:
        return item
    if not part.isdecimal():
        raise BadRow(f"the path '{name}.{part}': '{name}' is a list; give a place, from 0 on, or *")
    return int(part)


def _items(values: dict[str, Any], path: str) -> list[Any]:
    """The items of the list that a path leads to; none, if there is nothing."""
    first, *parts = path.split(".")
    value, name = _opened(values.get(first)), first
    for part in parts:
        if isinstance(value, list):
            place = _place(part, None, name)
            value = value[place] if place < len(value) else None
        elif isinstance(value, dict):
            value = value.get(part)
        elif value is not None:
            raise _not_open(value, name, part)
        value, name = _opened(value), f"{name}.{part}"
    if value is None or isinstance(value, list):
        return value or []
    raise BadRow(f"the path '{path}.{STAR}': '{path}' is {_kind(value)}, not a list")


def _opened(value: Any) -> Any:
    """A list or an object that is written as JSON text, as in the cells of a table."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            return json_rows.decode(value)
        except ValueError:
            return value
    return value


def _not_open(value: Any, name: str, part: str) -> BadRow:
    return BadRow(
        f"the path '{name}.{part}': '{name}' is {_kind(value)}, neither a list nor an object"
    )


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _described(value: Any, name: str) -> str:
    value = _opened(value)
    if isinstance(value, dict):
        return f"'{name}' has {listed([f'{name}.{key}' for key in value]) or 'no keys'}"
    count = len(value) if isinstance(value, list) else 0
    return f"'{name}' has {count} items, counted from 0"
