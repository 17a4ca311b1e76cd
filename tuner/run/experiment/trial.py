"""One run of an experiment: a command in a process of its own.

Nothing heavy is imported here, and nothing of Ray: every machine of a cluster imports this.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError
from tuner.record.run_json import RUN, read_record

# The exit code of a run that has ended, and its error.
Outcome = tuple[int, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Trial:
    """One run of an experiment.

    Attributes:
        name: of the run.
        verb: the training command.
        recipe: its recipe.
        folder: of the run.
        log: takes what its process writes, or what it writes to stderr.
        overrides: every `--set` of its command.
        about: more about it, to be shown.
    """

    name: str
    verb: str
    recipe: Path
    folder: Path
    log: Path
    overrides: tuple[str, ...] = ()
    about: str = ""

    def arguments(self) -> list[str]:
        """Return the command that begins the run or continues it."""
        words = [self.verb, "--recipe", str(self.recipe), "--output", str(self.folder)]
        words += [word for each in self.overrides for word in ("--set", each)]
        return [*words, *(["--resume"] if (self.folder / RUN).exists() else [])]

    def record(self) -> dict[str, Any] | None:
        """Return the record of the run; None if there is none that can be read."""
        with contextlib.suppress(IntegrityError):
            return read_record(self.folder)
        return None

    def outcome(self, ended: int | str) -> Outcome:
        """Return how the run ended: its exit code, or why it could not be run, and its error."""
        if ended == 0:
            return 0, None
        said = (self.record() or {}).get("error") or _last_error(self.log)
        unknown = {"what": f"{ended}", "why": f"see {self.log}"}
        return ended if isinstance(ended, int) else 70, said or unknown


@dataclass(frozen=True)
class Share:
    """The resources of a run, and their cluster ("" for this machine alone)."""

    cpus: int
    gpus: int
    address: str


def _last_error(log: Path) -> dict[str, Any] | None:
    """Return the error of a command that opened no run folder."""
    with contextlib.suppress(OSError):
        for line in reversed(log.read_text("utf-8", errors="replace").splitlines()):
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == "error":
                    return dict(event["error"])
    return None
