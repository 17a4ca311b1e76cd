"""The folders of checkpoints: find the newest intact one, remove old ones."""

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
# In a run folder: what every so many steps leave; and the best weights alone.
CHECKPOINTS, BEST = "checkpoints", "best"
STEP_FOLDER = re.compile(r"step-(0|[1-9][0-9]*)")


def sealed_steps(folder: Path) -> list[tuple[int, Path]]:
    """Return the step folders, newest first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := STEP_FOLDER.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, reverse=True)


def keep_only(kept: Path) -> None:
    """Remove our other checkpoints next to this one, newer ones included."""
    for _, path in sealed_steps(kept.parent):
        if path != kept:
            _remove(path)


def _remove(path: Path) -> None:
    try:
        seal.remove_sealed(path)
    except OSError as error:
        # The new checkpoint is sealed: one old one too many is no reason to stop.
        log.warning("%s could not be removed: %s", path, error)


def rotate(folder: Path, keep: int) -> None:
    """Remove our older checkpoints; one with missing or truncated files does not count as kept."""
    intact = 0
    for _, path in sealed_steps(folder):
        if intact >= keep:
            _remove(path)
        elif _is_whole(path):
            intact += 1


def _is_whole(path: Path) -> bool:
    """Whether all files have their recorded sizes: cheap, and shows a crash or a partial copy."""
    try:
        files = read_manifest(path)["files"]
        return all((path / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (IntegrityError, OSError):
        return False


def newest(*folders: Path) -> tuple[Path | None, list[str]]:
    """Find the newest intact checkpoint in some folders, with every byte checked.

    Returns:
        Its folder or None, and a message for each newer one that had to be skipped.
    """
    skipped = []
    found = sorted((each for folder in folders for each in sealed_steps(folder)), reverse=True)
    for _, path in found:
        try:
            manifest.verify(path)
        except IntegrityError as error:
            problems = error.problems or [error.why]
            skipped.append(f"skipped {path.name}: {'; '.join(problems)}")
            continue
        return path, skipped
    return None, skipped
