"""The folder of checkpoints: find the newest intact one, remove old ones."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from tuner.errors import IntegrityError
from tuner.record import manifest, seal
from tuner.record.manifest import read_manifest

log = logging.getLogger(__name__)

# Checkpoints to keep; there is one more while the next is written.
KEPT = 2
STEP_FOLDER = re.compile(r"step-(0|[1-9][0-9]*)")


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """The step folders, newest first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := STEP_FOLDER.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, reverse=True)


def rotate(folder: Path, keep: int) -> None:
    """Remove our older checkpoints; one with missing or truncated files does not count as kept."""
    intact = 0
    for _, path in _steps(folder):
        if intact >= keep:
            try:
                seal.remove_sealed(path)
            except OSError as error:
                # The new checkpoint is sealed: one old one too many is no reason to stop.
                log.warning("%s could not be removed: %s", path, error)
        elif _is_whole(path):
            intact += 1


def _is_whole(path: Path) -> bool:
    """Whether all files have their recorded sizes: cheap, and shows a crash or a partial copy."""
    try:
        files = read_manifest(path)["files"]
        return all((path / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (IntegrityError, OSError):
        return False


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest intact checkpoint, with every byte checked.

    Returns:
        Its folder or None, and a message for each newer one that had to be skipped.
    """
    skipped = []
    for _, path in _steps(folder):
        try:
            manifest.verify(path)
        except IntegrityError as error:
            problems = error.problems or [error.why]
            skipped.append(f"skipped {path.name}: {'; '.join(problems)}")
            continue
        return path, skipped
    return None, skipped
