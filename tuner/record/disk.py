"""Durable writes: atomic, flushed files, and the error for a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.console.formatting import plain
from tuner.errors import ResourceError
from tuner.machine import hardware

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically and durably; a reader sees old or new, never a part.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    # One writer per file (the run lock), so a fixed name: the next write replaces a leftover.
    staged = path.with_name(f".{path.name}.tmp")
    text = json.dumps(plain(value, repr), indent=1, ensure_ascii=False, allow_nan=False)
    try:
        write_file(staged, f"{text}\n".encode())
        os.replace(staged, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise resource_error(error, path) from error


def require_space(folder: Path, needed: int) -> None:
    """Check free space before it is needed.

    Raises:
        ResourceError: fewer than `needed` bytes are free where `folder` is or will be.
    """
    free = hardware.disk_free(folder)
    if free < needed:
        raise ResourceError(
            f"not enough disk space for {folder}",
            f"needs {needed:,} bytes, has {free:,} free",
            "free some space, choose another disk with --output, or export fewer formats",
        )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files under a folder; 0 if there are none."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def write_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file and flush it to the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes: one `os.write` may take fewer."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, so that they outlast a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_folder(folder.parent)


@contextlib.contextmanager
def no_empty_folder(path: Path) -> Iterator[None]:
    """Remove a new folder, and new parents, if the body fails and leaves them empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        # A folder may allow entering without listing; its files are flushed all the same.
        return
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot flush a folder; EINVAL is how they say so.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that the disk, the quota or the file size limit is used up."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    # Libraries written in Rust put the errno in their message only.
    return any(f"(os error {number})" in str(error) for number in DISK_FULL)


def resource_error(error: BaseException, path: Path) -> ResourceError:
    """Return the error a user sees when something could not be written at `path`."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    free = ""
    with contextlib.suppress(OSError):
        free = f"; {shutil.disk_usage(path.parent).free:,} bytes are free there"
    return ResourceError(
        f"cannot write {path}",
        f"{reason}{free}",
        "free some space or choose another disk or folder; what was sealed earlier is intact",
    )
