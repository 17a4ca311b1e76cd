"""A recipe's files as rows: what every task makes its examples of."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tuner.data import find, read
from tuner.data.bad_rows import BadRow, BadRows
from tuner.data.read import Row
from tuner.data.source_file import SourceFile
from tuner.data.template_match import NONE, Fit
from tuner.errors import DataError, TunerError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import Source as SourceItem
from tuner.recipe.schema_source import SourceSection
from tuner.record.disk import sha256_file

Made = TypeVar("Made")
# No token has more characters, except runs of spaces; a longer text is truncated anyway.
CHARACTERS_PER_TOKEN = 64
SPARE_TOKENS = 1024
# Rows by whose contents a format is recognised.
EVIDENCE = 1000


@dataclass
class Source:
    """A file of a split, and its rows.

    Args:
        file: the file, opened.
        name: what it is called in messages; no other source has the name.
        data: the recipe's data section, with what is the source's own in its place.
        rows: its rows.
        drawn_from: how many rows the file has, where only some of them are used.
        fit: its format, once it is recognised; without rows it has none.
    """

    file: SourceFile
    name: str
    data: DataSection
    rows: list[Row]
    drawn_from: int | None = None
    fit: Fit[Any] = field(init=False)

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.file.path

    @property
    def columns(self) -> list[str]:
        """The columns of its rows, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    def facts(self) -> dict[str, Any]:
        """Return the report's facts about the file."""
        drawn = {} if self.drawn_from is None else {"drawn_from": self.drawn_from}
        return {
            "name": self.name,
            "sha256": sha256_file(self.path),
            "rows": len(self.rows),
            **drawn,
            **self.file.facts(),
            **self._format(),
        }

    def _format(self) -> dict[str, Any]:
        if not self.rows:
            return {}
        used = [name for name in self.columns if name in self.fit.used]
        return {"template": self.fit.template.name, "columns": used}


@dataclass
class SplitFiles:
    """The files of one split (train or eval)."""

    name: str
    sources: list[Source]

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [source.path for source in self.sources]

    @property
    def rows(self) -> list[Row]:
        """The rows of all files."""
        return [row for source in self.sources for row in source.rows]


@dataclass
class DataSource:
    """The rows of both splits as they are in the files."""

    train: SplitFiles
    eval: SplitFiles
    bad: BadRows

    @property
    def sources(self) -> list[Source]:
        """The files of both splits."""
        return self.train.sources + self.eval.sources

    @property
    def rows(self) -> list[Row]:
        """The rows of all files."""
        return self.train.rows + self.eval.rows

    def each(self, rows: Iterable[Row], make: Callable[[Row], Made]) -> list[Made]:
        """Make something of every row; bad ones are recorded."""
        made = []
        for row in rows:
            try:
                made.append(make(row))
            except BadRow as problem:
                self.bad.add(row.id, str(problem))
        return made

    def facts(self, used: Callable[[Source], frozenset[str]], **left_out: int) -> dict[str, Any]:
        """Return the report's facts about the files.

        Args:
            used: the columns of a source that something reads.
            left_out: how many rows a task has no use for, by reason.
        """
        ignored = {
            source.name: [name for name in source.columns if name not in used(source)]
            for source in self.sources
            if source.rows
        }
        everywhere = dict.fromkeys(name for names in ignored.values() for name in names)
        if len(dict.fromkeys(map(tuple, ignored.values()))) > 1:
            everywhere = dict.fromkeys(
                f"{name} ({source})" for source, names in ignored.items() for name in names
            )
        rows = self.rows
        return {
            "files": [source.facts() for source in self.sources],
            "read_as": [f"{s.name}: {', '.join(s.file.said)}" for s in self.sources if s.file.said],
            "rows_of_items": [f"{s.name}: {t}" for s in self.sources if (t := s.file.items())],
            "rows_in": len(rows),
            **left_out,
            "ignored_columns": list(everywhere),
            "rows_cut_while_reading": [row.id for row in rows if row.cut_characters],
        }


def read_source(
    data: DataSection, folder: Path, max_length: int, seed: int, first: int | None = None
) -> DataSource:
    """Read the files of a data section.

    Args:
        data: the recipe's data section.
        folder: where relative paths are looked up first.
        max_length: tokens; texts that are far longer are not read to their end, unless split.
        seed: chooses the rows of a source that names how many.
        first: read no more rows of each source than this, except to draw some.

    Raises:
        DataError: a file is missing or broken.
    """
    reader = _Reader(data, folder, max_length, seed, first)
    train = SplitFiles("train", reader.sources(data.train, "data.train", data.max_rows))
    held = [] if data.eval_file is None else [data.eval_file]
    found = DataSource(
        train, SplitFiles("eval", reader.sources(held, "data.eval", None)), reader.bad
    )
    _settle(found.sources, data)
    return found


class _Reader:
    """Reads the sources of a data section."""

    def __init__(
        self, data: DataSection, folder: Path, max_length: int, seed: int, first: int | None
    ) -> None:
        self.bad = BadRows(data.max_bad_rows)
        self._data, self._folder, self._seed, self._first = data, folder, seed, first
        self._most = (
            None if data.long == "split" else (max_length + SPARE_TOKENS) * CHARACTERS_PER_TOKEN
        )

    def sources(self, items: Sequence[SourceItem], key: str, most: int | None) -> list[Source]:
        """Read the sources of a split, at most so many rows of all together."""
        own = [
            each if isinstance(each, SourceSection) else SourceSection(source=each)
            for each in items
        ]
        paths = [find.find(each.source, self._folder, key) for each in own]
        found: list[Source] = []
        for number, (item, path) in enumerate(zip(own, paths, strict=True)):
            update = {
                name: value
                for name in ("template", "columns", "system")
                if (value := getattr(item, name)) is not None
            }
            given = self._data.model_copy(update=update)
            file = SourceFile.open(path, item, key, given, self._folder)
            source = Source(file, _name(paths, number), given, [])
            left = None if most is None else most - sum(len(each.rows) for each in found)
            self._fill(source, item.rows, left)
            for row in source.rows:
                # One that is there twice is one task of a prompt for several.
                row.source, row.name = own.index(item), source.name
            found.append(source)
        return found

    def _fill(self, source: Source, drawn: int | None, most: int | None) -> None:
        """Read the rows of a source: some that are drawn, or the first `most`."""
        if drawn is None:
            limits = [limit for limit in (most, self._first) if limit is not None]
            found = source.file.rows(self.bad, min(limits, default=None))
            source.rows = list(self._cut(found))
        else:
            every = self._cut(source.file.rows(self.bad))
            chosen, source.drawn_from = _draw(every, drawn, self._seed)
            source.rows = chosen[:most]

    def _cut(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if self._most is not None:
                read.cut(row, self._most)
            yield row


def in_source(error: TunerError, source: Source) -> TunerError:
    """Return an error about one of several sources."""
    fix = error.fix
    if isinstance(error, DataError):
        fix += f"; for this source alone: {{source: {source.path.name}, template: NAME, columns: "
        fix += "{template's name: file's name}}"
    return type(error)(f"{source.name}: {error.what}", error.why, fix, error.problems)


def _draw(rows: Iterable[Row], most: int, seed: int) -> tuple[list[Row], int]:
    """Return `most` rows, in their order, and how many there are in all.

    Which ones depends on the seed and on their contents, not on their places: files whose rows
    belong together line by line are drawn from independently.
    """
    count = 0

    def marked() -> Iterator[tuple[bytes, int, Row]]:
        nonlocal count
        for count, row in enumerate(rows, 1):
            text = f"{seed}:{json.dumps(row.values, sort_keys=True, default=str)}"
            yield hashlib.sha256(text.encode()).digest(), count, row

    chosen = heapq.nsmallest(most, marked(), key=lambda each: each[:2])
    return [row for _, _, row in sorted(chosen, key=lambda each: each[1])], count


def _name(paths: Sequence[Path], number: int) -> str:
    """Return a file's name; with its folder, and its number, where others have the same."""
    path, others = paths[number], {*paths} - {paths[number]}
    name = path.name
    if any(other.name == name for other in others):
        name = f"{path.parent.name}/{name}"
        if any(f"{other.parent.name}/{other.name}" == name for other in others):
            name = str(path)
    return f"{name} (source {number + 1})" if path in paths[:number] else name


def _settle(sources: Sequence[Source], data: DataSection) -> None:
    """Let the recipe's `columns` rename, of each source, the columns that it has."""
    known = {name for source in sources for name in source.columns}
    for source in sources if len(sources) > 1 else ():
        if source.data.columns is data.columns:
            here = {
                name: file
                for name, file in data.columns.items()
                if file == NONE or file in source.columns or file not in known
            }
            source.data = source.data.model_copy(update={"columns": here})
