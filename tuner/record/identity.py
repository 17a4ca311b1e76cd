"""What a run depends on: a resumed run must be the run that was stopped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tuner.errors import IntegrityError

# In the names of fields that are no keys of a recipe.
_DIGEST = "sha256"


def check_identity(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    allowed: Iterable[str] = (),
    behind: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[str]:
    """Compare the settings a checkpoint was trained with to those of this run.

    Args:
        saved: the flat `state["identity"]` of the checkpoint.
        current: the same fields of this run.
        allowed: fields that may change without changing the trajectory.
        behind: of a field whose values say nothing to a reader, such as a digest, what made it
            differ; one line each.

    Returns:
        One line for each allowed difference.

    Raises:
        IntegrityError: any other field differs; each has its line.
    """
    may_change = set(allowed)
    noted: list[str] = []
    refused: list[str] = []
    fields: list[str] = []
    for field in sorted(saved.keys() | current.keys()):
        before = json.dumps(saved[field], sort_keys=True) if field in saved else "(absent)"
        now = json.dumps(current[field], sort_keys=True) if field in current else "(absent)"
        if before != now:
            lines = behind.get(field) or [f"{field}: {before} in the checkpoint, {now} now"]
            (noted if field in may_change else refused).extend(lines)
            if field not in may_change:
                fields.append(field)
    if refused:
        raise IntegrityError(
            "the checkpoint belongs to a different run than this recipe describes",
            refused[0],
            f"{_as_before(saved, fields)}, or start a new run with another --output",
            refused,
        )
    return noted


def _as_before(saved: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Return how to restore the checkpoint's settings: a default may have changed."""
    keys = [field for field in fields if _DIGEST not in field]
    if not all(isinstance(saved.get(key), str | int | float) for key in keys):
        return "undo these changes"
    flags = " ".join(f"--set {shlex.quote(f'{key}={_written(saved[key])}')}" for key in keys)
    # Other keys of the data section make other rows, too.
    files = len(keys) < len(fields) and not any(key.startswith("data.") for key in keys)
    resumed = f"resume with {flags}" if keys else ""
    restored = "put back the files as they were" if files or not keys else ""
    return " and ".join(filter(None, (restored, resumed)))


def _written(value: str | int | float) -> str:
    return value if isinstance(value, str) else json.dumps(value)
