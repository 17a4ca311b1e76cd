"""The file that takes the answers: whole lines in the order of the rows, continued if asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tuner.console.formatting import plain
from tuner.errors import IntegrityError, RecipeError
from tuner.record.disk import resource_error, write_all, write_json
from tuner.record.lock import try_flock

SETTINGS = ".settings.json"


class Lines:
    """An output file that is open for appending.

    Args:
        path: of the file; next to it is one with what the answers depend on.
        settings: what they depend on.
        rows: how many lines there will be.
        resume: continue what is there; begin if nothing is.

    Attributes:
        done: lines that were there already.

    Raises:
        RecipeError: the file is there and `resume` is false, another process writes to it, or it
            was made with other settings.
        IntegrityError: its lines are not those of the rows.
        ResourceError: it cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], rows: int, resume: bool) -> None:
        self.path = path
        settings_file = path.with_name(path.name + SETTINGS)
        there = path.exists()
        if there and not resume:
            raise taken(path)
        self.done = 0
        if there:
            _refuse_others(path, settings_file, json.loads(json.dumps(settings)))
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (0 if resume else os.O_EXCL)
            self._file = os.open(path, flags, 0o666)
        except FileExistsError:
            raise taken(path) from None
        except OSError as error:
            raise resource_error(error, path) from error
        try:
            if not try_flock(self._file):
                raise RecipeError(
                    f"--output {path}: another process writes to it",
                    "a file of answers has one writer",
                    "wait for it, or choose another --output",
                )
            if there:
                self.done = _continued(self._file, path, rows)
            else:
                write_json(settings_file, settings)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, line: Mapping[str, Any]) -> None:
        """Add the line of the next row; it is in the kernel when this returns.

        Raises:
            ResourceError: the disk is full.
        """
        text = json.dumps(plain(line, repr), ensure_ascii=False, allow_nan=False)
        try:
            write_all(self._file, (text + "\n").encode())
        except OSError as error:
            raise resource_error(error, self.path) from error

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.fsync(self._file)
        os.close(self._file)


def taken(path: Path) -> RecipeError:
    """Return the error for an output that is there already."""
    return RecipeError(
        f"--output {path} is there already",
        "answers are never written over",
        "choose another --output, or continue that one with --resume",
    )


def _refuse_others(path: Path, settings_file: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to mix answers of different models, rows or options in one file."""
    try:
        known = json.loads(settings_file.read_text("utf-8"))
    except (OSError, ValueError):
        raise RecipeError(
            f"--resume: {path} cannot be continued",
            f"{settings_file.name}, which says how its answers were made, is missing or damaged",
            "choose another --output",
        ) from None
    other = [
        f"{key}: {json.dumps(known.get(key))} there, {json.dumps(settings.get(key))} now"
        for key in dict.fromkeys((*known, *settings))
        if known.get(key) != settings.get(key)
    ]
    if other:
        raise RecipeError(
            f"--resume: {path} was made in another way",
            problems=other,
            fix="give the options that it was begun with, or choose another --output",
        )


def _continued(file: int, path: Path, rows: int) -> int:
    """Cut a line that is torn, and return how many whole ones there are."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    lines = data[:end].splitlines()
    for number, line in enumerate(lines):
        try:
            same = number < rows and json.loads(line)["index"] == number
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise IntegrityError(
                f"{path} has been changed",
                f"line {number + 1} is not the answer to row {number} of the file",
                "choose another --output",
            )
    os.ftruncate(file, end)
    return len(lines)
