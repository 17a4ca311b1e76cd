"""What a run depends on: a resumed run must be the run that was stopped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from tuner.errors import IntegrityError

# In the names of fields that are no keys of a recipe.
_DIGEST = "sha256"


class Cause(NamedTuple):
    """What made a field differ whose values say nothing to a reader, such as a digest.

    Attributes:
        line: says it.
        key: of the recipe that was changed; empty: a file was.
        value: of the key, before.
    """

    line: str
    key: str = ""
    value: Any = None


def check_identity(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    allowed: Iterable[str] = (),
    behind: Mapping[str, Sequence[Cause]] = MappingProxyType({}),
) -> list[str]:
    """Compare the settings a checkpoint was trained with to those of this run.

    Args:
        saved: the flat `state["identity"]` of the checkpoint.
        current: the same fields of this run.
        allowed: fields that may change without changing the trajectory.
        behind: of fields whose values say nothing to a reader, what made them differ.

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
            causes = behind.get(field, ())
            lines = [cause.line for cause in causes]
            lines = lines or [f"{field}: {before} in the checkpoint, {now} now"]
            (noted if field in may_change else refused).extend(lines)
            if field not in may_change:
                fields.append(field)
    if refused:
        causes = [cause for field in fields for cause in behind.get(field, ())]
        raise IntegrityError(
            "the checkpoint belongs to a different run than this recipe describes",
            refused[0],
            f"{_as_before(saved, fields, causes)}, or start a new run with another --output",
            refused,
        )
    return noted


def _as_before(saved: Mapping[str, Any], fields: Sequence[str], causes: Sequence[Cause]) -> str:
    """Return how to restore the checkpoint's settings: a default may have changed."""
    earlier = {field: saved.get(field) for field in fields if _DIGEST not in field}
    earlier |= {cause.key: cause.value for cause in causes if cause.key}
    plain = {key: value for key, value in earlier.items() if isinstance(value, str | int | float)}
    if len(plain) < len(earlier):
        return "undo these changes"
    flags = " ".join(f"--set {shlex.quote(f'{k}={_written(v)}')}" for k, v in plain.items())
    digests = any(_DIGEST in field for field in fields)
    # Other keys of the data section make other rows, too.
    files = digests and not any(key.startswith("data.") for key in earlier)
    files = files or any(not cause.key for cause in causes)
    resumed = f"resume with {flags}" if earlier else ""
    restored = "put back the files as they were" if files else ""
    return " and ".join(filter(None, (restored, resumed)))


def _written(value: str | int | float) -> str:
    return value if isinstance(value, str) else json.dumps(value)
