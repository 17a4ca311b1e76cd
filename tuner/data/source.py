"""A recipe's files as rows, and the split of what is made of them by prompt.

Preferences and prompts are made of rows in another way than the examples of sft, but they are read
by the same rules, and what is held out is decided by what a prompt says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tuner.data import load
from tuner.data.check import Problems
from tuner.data.rows import CHARACTERS_PER_TOKEN, SPARE_TOKENS
from tuner.data.split import held_out
from tuner.errors import DataError
from tuner.recipe import DataSection

Item = TypeVar("Item")


@dataclass
class Source:
    """The rows of both splits as they stand in the files; `bad` and `problems` share one limit."""

    train: list[load.Row]
    eval: list[load.Row]
    train_files: list[Path]
    eval_files: list[Path]
    bad: load.BadRows
    problems: Problems

    @property
    def rows(self) -> list[load.Row]:
        """The rows of all files."""
        return self.train + self.eval

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    def number(self, row: load.Row) -> int:
        """Which of the files of its split the row comes from."""
        files = self.train_files if row.path in self.train_files else self.eval_files
        return files.index(row.path)

    def facts(self, used: frozenset[str]) -> dict[str, Any]:
        """What the report says of the files, if the columns `used` were read."""
        counts = [sum(row.path == path for row in self.rows) for path in self._files]
        return {
            "files": [
                {"name": path.name, "sha256": load.sha256(path), "rows": count}
                for path, count in zip(self._files, counts, strict=True)
            ],
            "rows_in": len(self.rows),
            "ignored_columns": [name for name in self.columns if name not in used],
            "rows_cut_while_reading": [row.id for row in self.rows if row.cut_characters],
        }

    def empty(self, split: str, why: str = "") -> DataError:
        """The error for a split (train or eval) without rows."""
        files = self.train_files if split == "train" else self.eval_files
        names = ", ".join(str(path) for path in files)
        left_out = f"{len(self.bad.found)} bad rows were left out, none is left"
        return DataError(
            f"the {split} split is empty",
            why or f"{names}: {left_out if self.bad.found else 'no rows'}",
            f"give data.{split} a file with rows",
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
    bad = load.BadRows(data.max_bad_rows)
    limit = (max_length + SPARE_TOKENS) * CHARACTERS_PER_TOKEN
    train_files = [load.find(name, folder, "data.train") for name in data.train]
    eval_files = [load.find(data.eval, folder, "data.eval")] if isinstance(data.eval, str) else []
    rows = load.read(train_files, bad, max_rows=data.max_rows, max_characters=limit)
    held = load.read(eval_files, bad, max_characters=limit)
    source = Source(rows, held, train_files, eval_files, bad, Problems(bad))
    if not rows:
        raise source.empty("train")
    if eval_files and not held:
        raise source.empty("eval")
    return source


@dataclass(frozen=True)
class Split(Generic[Item]):
    """Two splits without a common prompt.

    Args:
        train: what is trained on.
        eval: what is held out.
        leaked: items of the eval file that were taken out because train has their prompt.
        copies: items of train whose prompt stands there before them.
    """

    train: list[Item]
    eval: list[Item]
    leaked: int
    copies: int

    @property
    def facts(self) -> dict[str, Any]:
        """What the report says of the split."""
        return {"duplicates_in_train": self.copies, "eval_rows_also_in_train": self.leaked}


def split_by_prompt(
    train: list[Item],
    held: list[Item],
    mark: Callable[[Item], str],
    data: DataSection,
    seed: int,
) -> Split[Item]:
    """Hold out a share or a number of `train`, or make `held` free of the prompts of `train`.

    Args:
        train: items of the training files.
        held: items of the eval file; empty where `data.eval` is no file.
        mark: fingerprint of an item's prompt.
        data: the recipe's data section.
        seed: chooses what is held out.

    Raises:
        DataError: a split would be empty.
    """
    marks = [mark(item) for item in train]
    leaked = 0
    if isinstance(data.eval, str):
        known = set(marks)
        kept = [item for item in held if mark(item) not in known]
        leaked = len(held) - len(kept)
        if not kept:
            raise DataError(
                "the eval split is empty",
                f"all {leaked} prompts of {data.eval} also stand in the training rows",
                "hold out prompts that are not trained on, or set data.eval to a fraction",
            )
        held = kept
    elif data.eval:
        chosen = held_out(marks, data.eval, seed)
        both = list(zip(train, marks, strict=True))
        held = [item for item, each in both if each in chosen]
        train = [item for item, each in both if each not in chosen]
        marks = [each for each in marks if each not in chosen]
    return Split(train, held, leaked, len(marks) - len(set(marks)))
