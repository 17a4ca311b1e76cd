"""A recipe's files as rows, for preferences and prompts.

These are made from rows differently than the examples of sft, but read by the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.data import bad_rows, read
from tuner.data.bad_rows import Problems
from tuner.errors import DataError
from tuner.recipe.schema import DataSection


@dataclass
class Source:
    """The rows of both splits as they are in the files; `bad` and `problems` share one limit."""

    train: list[read.Row]
    eval: list[read.Row]
    train_files: list[Path]
    eval_files: list[Path]
    bad: bad_rows.BadRows
    problems: Problems

    @property
    def rows(self) -> list[read.Row]:
        """The rows of all files."""
        return self.train + self.eval

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    def number(self, row: read.Row) -> int:
        """Return which of the files of its split the row comes from."""
        files = self.train_files if row.path in self.train_files else self.eval_files
        return files.index(row.path)

    def facts(self, used: frozenset[str]) -> dict[str, Any]:
        """Return the report's facts about the files, of which the columns `used` were read."""
        counts = [sum(row.path == path for row in self.rows) for path in self._files]
        return {
            "files": [
                {"name": path.name, "sha256": read.sha256(path), "rows": count}
                for path, count in zip(self._files, counts, strict=True)
            ],
            "rows_in": len(self.rows),
            "ignored_columns": [name for name in self.columns if name not in used],
            "rows_cut_while_reading": [row.id for row in self.rows if row.cut_characters],
        }

    def empty(self, split: str, why: str = "") -> DataError:
        """Return the error for a split (train or eval) without rows."""
        files = self.train_files if split == "train" else self.eval_files
        names = ", ".join(str(path) for path in files)
        left_out = f"{len(self.bad.found)} bad rows were left out, none is left"
        return DataError(
            f"the {split} split is empty",
            why or f"{names}: {left_out if self.bad.found else 'no rows'}",
            f"point data.{split} to a file with rows",
        )

    @property
    def _files(self) -> list[Path]:
        return [*self.train_files, *self.eval_files]


def read_source(data: DataSection, folder: Path, max_length: int) -> Source:
    """Read the files of a data section.

    Args:
        data: the recipe's data section.
        folder: where relative paths are looked up first.
        max_length: tokens; texts that are far longer are not read to their end.

    Raises:
        DataError: a file is missing, broken or has no rows.
    """
    bad = bad_rows.BadRows(data.max_bad_rows)
    limit = (max_length + SPARE_TOKENS) * CHARACTERS_PER_TOKEN
    train_files = [read.find(name, folder, "data.train") for name in data.train]
    eval_files = [read.find(data.eval, folder, "data.eval")] if isinstance(data.eval, str) else []
    rows = read.read(train_files, bad, max_rows=data.max_rows, max_characters=limit)
    held = read.read(eval_files, bad, max_characters=limit)
    source = Source(rows, held, train_files, eval_files, bad, Problems(bad))
    if not rows:
        raise source.empty("train")
    if eval_files and not held:
        raise source.empty("eval")
    return source


# No token has more characters, except runs of spaces; a longer text is truncated anyway.
CHARACTERS_PER_TOKEN = 64
SPARE_TOKENS = 1024
