"""A folder of documents: each of its text files is one row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from tuner.console.formatting import counted
from tuner.data.reading.json_rows import BadLine
from tuner.data.reading.lines import text_of
from tuner.record.disk import sha256_file

SUFFIXES = (".txt", ".md")
# Kinds of files that hold rows.
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
# Names of files that a message lists.
_LISTED = 5


def documents(folder: Path) -> list[Path]:
    """Return the documents in a folder and the folders in it, in the order of their paths."""
    return [file for file in _files(folder) if file.suffix.lower() in SUFFIXES]


def only_documents(folder: Path) -> bool:
    """Return whether there are documents in a folder, and no files with rows."""
    return bool(documents(folder)) and not any(
        file.suffix.lower() in ROWS for file in _files(folder)
    )


def unread(folder: Path) -> str:
    """Return which files of a folder are no documents; empty if all are, or if it is a file."""
    others = [
        str(file.relative_to(folder))
        for file in _files(folder)
        if file.suffix.lower() not in SUFFIXES
    ]
    if not others:
        return ""
    more = ["..."] if len(others) > _LISTED else []
    return f"{counted(len(others), 'file')} not read: {', '.join([*others[:_LISTED], *more])}"


def texts(folder: Path, encoding: str) -> Iterator[tuple[Path, str | BadLine]]:
    """Yield each document with its text, or why it is none."""
    for file in documents(folder):
        yield file, text_of(file, encoding)


def sha256(path: Path) -> str:
    """Return the digest of a file, or of the names and contents of a folder's documents."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in documents(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """All files of a folder but hidden ones."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
