"""A recipe's files as rows: what every task makes its examples of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tuner.data.bad_rows import BadRow, BadRows
from tuner.data.columns.template_match import NONE
from tuner.data.columns.ways import given_keys, kept_keys
from tuner.data.reading import documents, find, read
from tuner.data.reading.read import Row
from tuner.data.reading.sample import Sample, first_version
from tuner.data.sources.source import EVIDENCE, Source, SplitFiles
from tuner.data.sources.source_file import SourceFile
from tuner.errors import DataError, TunerError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import Source as SourceItem
from tuner.recipe.schema_source import SourceSection

Made = TypeVar("Made")
# No token has more characters, except runs of spaces; a longer text is truncated anyway.
CHARACTERS_PER_TOKEN = 64
SPARE_TOKENS = 1024
OfRow = Callable[[Source, Row], Any]


@dataclass
class DataSource:
    """The rows of both splits as they are in the files."""

    train: SplitFiles
    eval: SplitFiles
    bad: BadRows
    reader: Reader

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
            source.name: [n for n in source.columns if n not in {*used(source), *source.file.where}]
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
            "files_not_read": [
                f"{s.name}: {t}" for s in self.sources if (t := documents.unread(s.path))
            ],
            "rows_by_value": [f"{s.name}: {t}" for s in self.sources if (t := s.file.left_out())],
            "rows_of_items": [f"{s.name}: {t}" for s in self.sources if (t := s.file.items())],
            "rows_in": len(rows),
            **left_out,
            "ignored_columns": list(everywhere),
            "rows_cut_while_reading": [row.id for row in rows if row.cut_characters],
        }


def read_source(data: DataSection, folder: Path, max_length: int, seed: int) -> DataSource:
    """Read the files of a data section.

    Args:
        data: the recipe's data section.
        folder: where relative paths are looked up first.
        max_length: tokens; texts that are far longer are not read to their end, unless split.
        seed: chooses the rows of a source that names how many.

    Raises:
        DataError: a file is missing or broken.
    """
    reader = Reader(data, folder, max_length, seed)
    train = SplitFiles("train", reader.sources(data.train, "data.train", data.max_rows))
    held = [] if data.eval_file is None else [data.eval_file]
    files = SplitFiles("eval", reader.sources(held, "data.eval", None))
    found = DataSource(train, files, reader.bad, reader)
    _settle(found.sources, data)
    return found


class Reader:
    """Reads the sources of a data section; of rows that are drawn, first those by which the column
    of the label is known. `most` characters of a text are enough to cut it."""

    def __init__(self, data: DataSection, folder: Path, max_length: int, seed: int) -> None:
        self.bad = BadRows(data.max_bad_rows)
        self._data, self._folder, self._seed = data, folder, seed
        self.most = (max_length + SPARE_TOKENS) * CHARACTERS_PER_TOKEN
        # What plain text is, and is read to its end, is known only when its format is.
        self._whole = data.long == "split" or (data.long == "auto" and data.cut != "answer")

    def sources(self, items: Sequence[SourceItem], key: str, most: int | None) -> list[Source]:
        """Read the sources of a split, at most so many rows of all together."""
        own = [
            each if isinstance(each, SourceSection) else SourceSection(source=each)
            for each in items
        ]
        paths = [find.find(each.source, self._folder, key) for each in own]
        found: list[Source] = []
        drawn = self._data.draw == "seed"
        for number, (item, path) in enumerate(zip(own, paths, strict=True)):
            update = {
                name: value
                for name in ("template", "columns", "system", "instruction")
                if (value := getattr(item, name)) is not None
            }
            given = self._data.model_copy(update=update)
            # One that is there twice is one task of a prompt for several.
            twin = own.index(item)
            file = SourceFile.open(path, item, key, given, self._folder)
            source = Source(file, _name(paths, number), given, twin, item.rows)
            source.given = given_keys(item, key, len(own)) | kept_keys(self._data, key)
            source.to_draw = drawn and (most is not None or item.rows is not None)
            left = None if most is None else most - sum(len(each.rows) for each in found)
            self._fill(source, left)
            found.append(source)
        return found

    def draw(self, split: SplitFiles, label_of: OfRow, key_of: OfRow) -> None:
        """Draw the rows that the recipe asks for, label by label, once the formats are known."""
        most = self._data.max_rows if split.name == "train" else None
        common = None if most is None else Sample(most, self._seed)
        drawn = [source for source in split.sources if source.to_draw]
        for source in drawn:
            source.drawn_from = 0
            own = common if source.wanted is None else Sample(source.wanted, self._seed)
            assert own is not None
            for row in self._rows(source):
                source.drawn_from += 1
                own.add(row, label_of(source, row), key_of(source, row))
            source.rows = [] if own is common else own.rows()
            if common is not None:
                for row in source.rows:
                    common.add(row, label_of(source, row), key_of(source, row))
        together = common.rows() if common else []
        for source in drawn:
            if common:
                source.rows = [row for row in together if row.name == source.name]
            if source.wanted is None and len(source.rows) == source.drawn_from:
                source.drawn_from = None
            labels = Counter(label_of(source, row) for row in source.rows)
            source.labels = {key: labels[key] for key in sorted(filter(None, labels))}

    def _fill(self, source: Source, most: int | None) -> None:
        """Read the rows of a source: the first ones to know it by, some that are drawn, or all."""
        if source.to_draw:
            known = BadRows(self._data.max_bad_rows)
            source.rows = list(self._rows(source, EVIDENCE, known))
        elif source.wanted is None or self._data.draw == "seed":
            limits = [limit for limit in (most, source.wanted) if limit is not None]
            source.rows = list(self._rows(source, min(limits, default=None)))
        else:
            chosen, source.drawn_from = first_version(self._rows(source), source.wanted, self._seed)
            source.rows = chosen[:most]

    def _rows(
        self, source: Source, most: int | None = None, bad: BadRows | None = None
    ) -> Iterator[Row]:
        for row in self._cut(source.file.rows(bad or self.bad, most)):
            row.source, row.name = source.number, source.name
            yield row

    def _cut(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if not self._whole:
                read.cut(row, self.most)
            yield row


def in_source(error: TunerError, source: Source) -> TunerError:
    """Return an error about one of several sources."""
    fix = error.fix
    if isinstance(error, DataError) and "\n" not in fix:
        fix += f"; for this source alone: {{source: {source.path.name}, template: NAME, columns: "
        fix += "{template's name: file's name}}"
    return type(error)(f"{source.name}: {error.what}", error.why, fix, error.problems)


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
                if (file == NONE and (name in source.columns or name not in known))
                or file in source.columns
                or (file != NONE and file not in known)
            }
            source.data = source.data.model_copy(update={"columns": here})
