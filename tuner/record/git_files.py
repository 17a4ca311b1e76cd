"""The commit that a folder's checkout is at, read from git's own files.

git itself is not run: `.git/config` may name programs that nearly every git command starts
(core.fsmonitor, hooks, filters, a pager), and a folder from elsewhere brings its own.
"""

from __future__ import annotations

import re
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
_REF = re.compile(r"ref: (refs/[\w./@+-]+)\Z")


def commit(folder: Path) -> str | None:
    """Return the commit of the checkout that a folder is in; None outside one."""
    for place in (folder, *folder.parents):
        if (own := _own_files(place / ".git")) is not None:
            break
    else:
        return None
    head = _read(own / "HEAD")
    if _COMMIT.match(head):
        return head
    match = _REF.match(head)
    if match is None or ".." in match[1]:
        return None
    # A worktree has its own HEAD; branches are in the repository that it belongs to.
    shared = own / (_read(own / "commondir") or ".")
    for found in (_read(own / match[1]), _read(shared / match[1]), _packed(shared, match[1])):
        if _COMMIT.match(found):
            return found
    return None


def _own_files(place: Path) -> Path | None:
    """The folder of git's files that `.git` is or, in a worktree or submodule, names."""
    if (place / "HEAD").is_file():
        return place
    named = _read(place)
    if not named.startswith("gitdir: "):
        return None
    own = place.parent / named.removeprefix("gitdir: ")
    return own if (own / "HEAD").is_file() else None


def _packed(folder: Path, ref: str) -> str:
    lines = _read(folder / "packed-refs").splitlines()
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), "")


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip() if file.is_file() else ""
    except (OSError, ValueError):
        return ""
