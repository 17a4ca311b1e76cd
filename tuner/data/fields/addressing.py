"""Paths of a recipe into the values of rows: `answer.0`, `meta.id`, `questions.*.q`; and texts that
join several of them: `title + body`.

What a path leads to becomes a column with the path's name. It takes the place of the column that
the path begins in, together with whatever else the objects on the way hold, so that nothing is left
out unseen.

Each item of a list with a star becomes a row, and so does each item of a list inside of it:
`paragraphs.*.qas.*.question`. Lists next to each other go together, item by item.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from tuner.data.bad_rows import BadRow, Unreadable
from tuner.data.fields import joined
from tuner.data.reading import json_rows
from tuner.data.reading.read import Row
from tuner.schema.suggest import listed

STAR = "*"
Places = tuple[int, ...]
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
        several: whether rows have any number of labels.
        levels: the lists whose items become rows: those at the first star, those at the second ...
        rows: rows of the file with items that became rows.
        items: rows that they became.
        empty: rows of the file without any.
        skipped: by path to a list, its items that no row was made of, where a place is chosen.
        refused: the first row that a path does not go through, and why.
        missed: for each path that no row has so far, what the first row has instead.
    """

    names: Collection[str]
    several: bool = False
    rows: int = 0
    items: int = 0
    empty: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    refused: str = ""
    missed: dict[str, str] = field(default_factory=dict)
    _found: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._texts = {name: found for name in self.names if (found := joined.parts(name))}
        single = [name for name in self.names if name not in self._texts]
        every = [*single, *(part for found in self._texts.values() for part in found)]
        self._paths = [name for name in dict.fromkeys(every) if "." in name]
        self.levels: list[list[str]] = []
        for name in self._paths:
            parts = name.split(".")
            stars = [place for place, part in enumerate(parts) if part == STAR]
            for level, place in enumerate(stars):
                self.levels += [[]] * (level == len(self.levels))
                path = ".".join(parts[:place])
                self.levels[level] = list(dict.fromkeys([*self.levels[level], path]))
        self._root = _tree(self._paths)

    @property
    def of(self) -> str:
        """The lists whose items rows are, for messages."""
        return listed(self.levels[-1]) if self.levels else ""

    def restart(self) -> None:
        """Count again, from the first row of the file."""
        self.rows = self.items = self.empty = 0
        self.skipped = {}

    def spread(self, row: Row) -> Iterator[Row]:
        """Yield the row with a column for each path or, where one has a star, one for each item;
        and with the texts that join columns.

        Raises:
            BadRow: a path leads through a value that is neither an object nor a list, or lists
                that go together are of different lengths.
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
            yield replace(each, values=self._with(each, texts))

    def _with(self, row: Row, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        return joined.with_texts(row.values, texts, self.names, self.several)

    def _spread(self, row: Row) -> Iterator[Row]:
        literal = [name for name in self._paths if name in row.values]
        root = _tree([n for n in self._paths if n not in literal]) if literal else self._root
        begun = [path for path in chain(*self.levels[:1]) if path.partition(".")[0] in row.values]
        if not root.next:
            yield row
        elif not begun:
            yield replace(row, values=self._values(row, root))
        else:
            places = list(self._places(row.values))
            self.rows, self.items = self.rows + 1, self.items + len(places)
            self.empty += not places
            for each in places:
                values = self._values(row, root, each)
                yield replace(row, values=values, item=_placed(f"{self.levels[-1][0]}.*", each))

    def _places(self, values: dict[str, Any], at: Places = ()) -> Iterator[Places]:
        """Yield the place of each item in its list, after those of the lists that hold it."""
        if len(at) == len(self.levels):
            yield at
            return
        counts = {path: self._count(values, path, at) for path in self.levels[len(at)]}
        if len({*counts.values()}) > 1:
            lengths = [f"'{_placed(path, at)}' has {n}" for path, n in counts.items()]
            raise BadRow(f"items of lists go together one by one: {listed(lengths)}")
        for place in range(next(iter(counts.values()))):
            yield from self._places(values, (*at, place))

    def _count(self, values: dict[str, Any], path: str, at: Places) -> int:
        """The items of a list; those that a chosen place on the way leaves out are noted."""
        last = max((n for n, part in enumerate(path.split(".")) if part == STAR), default=0)
        items, passed = _items(values, _placed(path, at))
        for number, name, more in passed:
            if number > last and more:
                self.skipped[name] = self.skipped.get(name, 0) + more
        return len(items)

    def _values(self, row: Row, root: _Node, at: Places = ()) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in row.values.items():
            node = root.next.get(name)
            if node is None or name in self.names:
                found[name] = value
            if node is not None:
                for path, each in _below(value, node, name, at):
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


def _placed(path: str, at: Places) -> str:
    """A path with places for its first stars."""
    for place in at:
        path = path.replace(f".{STAR}", f".{place}", 1)
    return path


def _below(value: Any, node: _Node, name: str, at: Places) -> Iterator[tuple[str, Any]]:
    """Yield what the paths from a value on lead to, and what is next to it in objects.

    `at` are the places that the stars of the paths stand for.
    """
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
                yield from _below(each, below, f"{name}.{key}", at)
    elif isinstance(value, list):
        for part, below in node.next.items():
            star = part == STAR and bool(at)
            place = at[0] if star else _place(part, name)
            if place < len(value):
                rest = at[1:] if star else at
                yield from _below(value[place], below, f"{name}.{part}", rest)
    else:
        raise _not_open(value, name, next(iter(node.next)))


def _place(part: str, name: str) -> int:
    if not part.isdecimal():
        raise BadRow(f"the path '{name}.{part}': '{name}' is a list; give a place, from 0 on, or *")
    return int(part)


def _items(values: dict[str, Any], path: str) -> tuple[list[Any], list[tuple[int, str, int]]]:
    """The items of the list that a path leads to; none, if there is nothing.

    Also, of each list on the way, the number of its part, its path, and how many others it has.
    """
    first, *parts = path.split(".")
    value, name = _opened(values.get(first)), first
    passed = []
    for number, part in enumerate(parts, 1):
        if isinstance(value, list):
            place = _place(part, name)
            passed.append((number, name, len(value) - 1))
            value = value[place] if place < len(value) else None
        elif isinstance(value, dict):
            value = value.get(part)
        elif value is not None:
            raise _not_open(value, name, part)
        value, name = _opened(value), f"{name}.{part}"
    if value is None or isinstance(value, list):
        return value or [], passed
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
