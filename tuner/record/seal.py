"""Sealed folders: complete and verifiable, or not there at all.

A folder is first written under a name that nothing reads, flushed to the disk, described by a
`MANIFEST.json` with the sha256 of every file, and renamed into place as the last act. Whatever
stops the process at whatever moment, the final name holds all or nothing. Checkpoints, artefacts
and the cached base model are sealed folders.

The staging folder has the parent of the final one, so the rename never crosses a file system; where
a file system refuses to rename folders at all there is no atomic way, and sealing says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError
from tuner.record.disk import is_disk_full, make_folder, resource_error, sync_folder, write_all
from tuner.record.lock import Owner, try_flock
from tuner.record.manifest import MANIFEST, MARKER, describe, is_sealed, read_manifest, unlisted

LEFTOVER = re.compile(r"\.(?:staging|removed)-.+-(?P<pid>\d+)-[a-z0-9_]{8}")


@contextlib.contextmanager
def seal(
    final: Path, *, extra: Mapping[str, Any] | None = None, keep_existing: bool = False
) -> Iterator[Path]:
    """Yield a staging folder; on success it becomes `final`, on an exception it is removed.

    Args:
        final: the folder to make; its parent is made when missing.
        extra: JSON to keep in the manifest; read at the end, so the body may still fill it.
        keep_existing: where another process sealed `final` meanwhile, keep that one and drop ours.

    Raises:
        IntegrityError: `final` already exists, or the body left something that is no plain file.
        ResourceError: the disk is full, or the folder cannot be written or renamed.
    """
    if os.path.lexists(final) and not keep_existing:
        raise _exists(final)
    staging, marker = _open_staging(final)
    try:
        yield staging
        try:
            describe(staging, marker, extra or {})
            os.unlink(staging / MARKER)
            sync_folder(staging)
            _rename(staging, final, keep_existing)
            sync_folder(final.parent)
        except OSError as error:
            raise resource_error(error, final) from error
    except BaseException as error:
        _remove_tree(staging)
        if is_disk_full(error):
            raise resource_error(error, final) from error
        raise
    finally:
        os.close(marker)


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Yield a folder for temporary files, removed at the end or, after a crash, by a later call.

    Raises:
        ResourceError: it cannot be made.
    """
    staging, marker = _open_staging(parent / "scratch")
    try:
        yield staging
    finally:
        _remove_tree(staging)
        os.close(marker)


def _open_staging(final: Path) -> tuple[Path, int]:
    """A fresh folder next to `final`, and its marker: ours, and locked while we work in it."""
    staging: Path | None = None
    try:
        make_folder(final.parent)
        clean_staging(final.parent)
        prefix = f".staging-{final.name}-{os.getpid()}-"
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
        marker = os.open(staging / MARKER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        if staging is not None:
            _remove_tree(staging)
        raise resource_error(error, final) from error
    try:
        try_flock(marker)
        write_all(marker, Owner.this().encode())
    except BaseException as error:
        os.close(marker)
        _remove_tree(staging)
        if isinstance(error, OSError):
            raise resource_error(error, final) from error
        raise
    return staging, marker


def _rename(staging: Path, final: Path, keep_existing: bool) -> None:
    # rename(2) would silently replace an empty folder.
    if not os.path.lexists(final):
        try:
            os.rename(staging, final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
    if not (keep_existing and is_sealed(final)):
        raise _exists(final)
    _remove_tree(staging)


def remove_sealed(folder: Path) -> bool:
    """Delete a folder that we sealed; False, and nothing touched, where it holds anything else.

    It is renamed first: a process killed half-way leaves no torn folder under a name that counts.
    """
    if not is_sealed(folder) or unlisted(folder, read_manifest(folder)):
        return False
    # No folder is made first: on a full disk that is the very thing that fails.
    aside = folder.with_name(f".removed-{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    os.rename(folder, aside)
    _remove_tree(aside)
    return True


def clean_staging(parent: Path, *, exclusive: bool = False) -> list[str]:
    """Remove what dead processes left half-written in `parent`; only folders proven ours.

    Args:
        parent: the folder that holds the sealed folders.
        exclusive: the caller holds the lock of this folder, so that nobody else writes here.

    Returns:
        The names removed.
    """
    if not parent.is_dir():
        return []
    removed = []
    for path in sorted(parent.iterdir()):
        match = LEFTOVER.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink() and _is_dead(path, match, exclusive):
            _remove_tree(path)
            if not path.exists():
                removed.append(path.name)
    return removed


def _is_dead(path: Path, match: re.Match[str], exclusive: bool) -> bool:
    try:
        entries = {entry.name for entry in path.iterdir()}
        # Killed between making the folder and signing its marker; or just about to sign it.
        unsigned = exclusive or time.time() - path.stat().st_mtime > 3600
        if MARKER in entries:
            return _marker_is_free(path / MARKER, unsigned)
        if not entries:
            return unsigned
    except OSError:
        return False
    if MANIFEST not in entries:
        return False
    # Between the marker's removal and the rename, the manifest proves the folder ours.
    owner = Owner(int(match["pid"]), Owner.this().host, "")
    return exclusive or not owner.alive()


def _marker_is_free(marker: Path, unsigned: bool) -> bool:
    """Whether the marker's process is gone; `unsigned` is the answer where it names none."""
    fd = os.open(marker, os.O_RDWR | os.O_NOFOLLOW)
    try:
        locked = try_flock(fd)
        owner = Owner.parse(os.pread(fd, 4096, 0).decode(errors="replace"))
    finally:
        os.close(fd)
    if locked is False:
        return False
    if owner is None:
        return unsigned
    alive = owner.alive()
    # Without flock an owner on another host may be alive: only that host knows.
    return alive is False or (alive is None and bool(locked))


def _remove_tree(folder: Path) -> None:
    """Delete a folder of ours, its proof of ownership last, so that any rest is still ours."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name in (MARKER, MANIFEST):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name in (MANIFEST, MARKER):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _exists(final: Path) -> IntegrityError:
    return IntegrityError(
        f"{final} already exists",
        "a sealed folder is never overwritten",
        "move it away or choose another name",
    )
