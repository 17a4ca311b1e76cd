"""The manifest of a sealed folder: the size and sha256 of every file, and its own checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tuner import __version__
from tuner.errors import IntegrityError
from tuner.record.disk import sha256_file, sync_folder, write_file

MANIFEST = "MANIFEST.json"
MARKER = ".tuner-staging"
FORMAT = 1


def describe(staging: Path, marker: int, extra: Mapping[str, Any]) -> None:
    """Flush every file and folder and write the manifest, last."""
    # The marker was made under the user's umask, which its mode shows.
    file_mode = os.fstat(marker).st_mode & 0o777
    folder_mode = file_mode | (file_mode & 0o444) >> 2
    files: dict[str, dict[str, Any]] = {}
    folders = [staging]
    for path in sorted(staging.rglob("*")):
        if path == staging / MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
            continue
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(
                f"{path.relative_to(staging)} is not a plain file",
                "a link or device cannot be sealed: its content may change or be elsewhere",
                "write the file itself into the folder",
            )
        _chmod(path, file_mode)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        files[path.relative_to(staging).as_posix()] = {"bytes": size, "sha256": digest}
    body = {"format": FORMAT, "tuner": __version__, "extra": dict(extra), "files": files}
    write_file(staging / MANIFEST, encode(body), file_mode)
    for folder in reversed(folders):
        _chmod(folder, folder_mode)
        sync_folder(folder)


def encode(body: Mapping[str, Any]) -> bytes:
    """Return the manifest's only spelling, with its own checksum: no altered byte goes unseen."""
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**body, "sha256": checksum}, indent=1, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of a sealed folder; the files are not checked.

    Raises:
        IntegrityError: it is missing, altered, or of a format unknown to this version.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
        version = manifest["format"]
    except FileNotFoundError as error:
        raise _damaged(folder, [f"{MANIFEST}: missing"]) from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(folder, [f"{MANIFEST}: not readable ({type(error).__name__})"]) from error
    if version != FORMAT:
        raise IntegrityError(
            f"{folder} cannot be read by this version",
            f"{MANIFEST} has format {version!r}, written by tuner {manifest.get('tuner', '?')}; "
            f"tuner {__version__} reads format {FORMAT}",
            "use the version that wrote it",
        )
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    if data != encode(body) or not _well_formed(body):
        found = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        expected = manifest.get("sha256")
        raise _damaged(folder, [f"{MANIFEST}: altered, expected sha256 {expected}, found {found}"])
    return body


def _well_formed(body: Mapping[str, Any]) -> bool:
    files = body.get("files")
    return isinstance(files, dict) and all(
        isinstance(entry, dict)
        and {"bytes", "sha256"} <= entry.keys()
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name, entry in files.items()
    )


def verify(folder: Path) -> dict[str, Any]:
    """Re-read every file of a sealed folder.

    Returns:
        The manifest, with `unlisted`: files in the folder that are not part of the seal.

    Raises:
        IntegrityError: names each file that is missing or altered, with both sha256.
    """
    manifest = read_manifest(folder)
    problems = []
    for name, entry in manifest["files"].items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            problems.append(f"{name}: missing, expected sha256 {entry['sha256']}")
            continue
        try:
            size, found = path.stat().st_size, sha256_file(path)
        except OSError as error:
            problems.append(f"{name}: cannot be read ({error.strerror})")
            continue
        if (size, found) != (entry["bytes"], entry["sha256"]):
            problems.append(
                f"{name}: expected sha256 {entry['sha256']} in {entry['bytes']:,} bytes, "
                f"found {found} in {size:,} bytes"
            )
    if problems:
        raise _damaged(folder, problems)
    return {**manifest, "unlisted": unlisted(folder, manifest)}


def unlisted(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of files in a sealed folder that are not part of it."""
    known = {MANIFEST, *manifest["files"]}
    names = (
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
    return sorted(name for name in names if name not in known)


def is_sealed(folder: Path) -> bool:
    """Return whether the folder has an unaltered manifest of ours; the files are not read."""
    try:
        read_manifest(folder)
    except IntegrityError:
        return False
    return True


def _damaged(folder: Path, problems: list[str]) -> IntegrityError:
    return IntegrityError(
        f"{folder} is damaged",
        problems[0],
        "restore it from a copy, or create it again",
        problems if len(problems) > 1 else None,
    )


def _chmod(path: Path, mode: int) -> None:
    # Some file systems have no modes; the content is what counts.
    with contextlib.suppress(OSError):
        os.chmod(path, mode)


def digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one sha256 for several files: of their names and their sha256, sorted."""
    text = "\n".join(f"{name}:{files[name]['sha256']}" for name in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()
