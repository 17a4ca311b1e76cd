"""A recipe's files as rows: what every task makes its examples of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tuner.data import read
from tuner.data.bad_rows import BadRow, BadRows
from tuner.data.read import Row
from tuner.recipe.schema import DataSection
from tuner.record.disk import sha256_file

Made = TypeVar("Made")
# No token has more characters, except runs of spaces; a longer text is truncated anyway.
CHARACTERS_PER_TOKEN = 64
SPARE_TOKENS = 1024


@dataclass
class SplitFiles:
    """The files of one split (train or eval), and their rows."""

    name: str
    paths: list[Path]
    rows: list[Row]


@dataclass
class DataSource:
    """The rows of both splits as they are in the files."""

    train: SplitFiles
    eval: SplitFiles
    bad: BadRows

    @property
    def rows(self) -> list[Row]:
        """The rows of all files."""
        return self.train.rows + self.eval.rows

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    def each(self, rows: Iterable[Row], make: Callable[[Row], Made]) -> list[Made]:
        """Make something of every row; bad ones are recorded."""
        made = []
        for row in rows:
            try:
                made.append(make(row))
            except BadRow as problem:
                self.bad.add(row.id, str(problem))
        return made

    def facts(self, used: Collection[str], **left_out: int) -> dict[str, Any]:
        """Return the report's facts about the files.

        Args:
            used: the columns that something reads.
            left_out: how many rows a task has no use for, by reason.
        """
        rows, paths = self.rows, self.train.paths + self.eval.paths
        counts = [sum(row.path == path for row in rows) for path in paths]
        return {
            "files": [
                {"name": path.name, "sha256": sha256_file(path), "rows": count}
                for path, count in zip(paths, counts, strict=True)
            ],
            "rows_in": len(rows),
            **left_out,
            "ignored_columns": [name for name in self.columns if name not in used],
            "rows_cut_while_reading": [row.id for row in rows if row.cut_characters],
        }


def read_source(data: DataSection, folder: Path, max_length: int) -> DataSource:
    """Read the files of a data section.

    Args:
        data: the recipe's data section.
        folder: where relative paths are looked up first.
        max_length: tokens; texts that are far longer are not read to their end, unless split.

    Raises:
        DataError: a file is missing or broken.
    """
    bad = BadRows(data.max_bad_rows)
    limit = None if data.long == "split" else (max_length + SPARE_TOKENS) * CHARACTERS_PER_TOKEN
    train = [read.find(name, folder, "data.train") for name in data.train]
    held = [read.find(data.eval, folder, "data.eval")] if isinstance(data.eval, str) else []
    rows = read.read(train, bad, max_rows=data.max_rows, max_characters=limit)
    return DataSource(
        SplitFiles("train", train, rows),
        SplitFiles("eval", held, read.read(held, bad, max_characters=limit)),
        bad,
    )
