"""One run of an experiment: a command in a process of its own.

Nothing heavy is imported here, and nothing of Ray: every machine of a cluster imports this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import IntegrityError
from tuner.record.run_json import RUN, read_record

# The exit code of a run that has ended, and its error.
Outcome = tuple[int, Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of an experiment.

    Attributes:
        name: of the run.
        verb: the training command.
        recipe: its recipe.
        folder: of the run.
        log: takes what its process writes to stderr.
        overrides: every `--set` of its command.
        text: the recipe's content, where it is written for this run.
        about: more about it, to be shown.
    """

    name: str
    verb: str
    recipe: Path
    folder: Path
    log: Path
    overrides: tuple[str, ...] = ()
    text: str | None = None
    about: str = ""

    @property
    def begun(self) -> bool:
        """Whether its folder holds a run."""
        return (self.folder / RUN).exists()

    def arguments(self) -> list[str]:
        """Return the command that begins the run or continues it."""
        words = [self.verb, "--recipe", str(self.recipe), "--output", str(self.folder)]
        words += [word for each in self.overrides for word in ("--set", each)]
        return [*words, *(["--resume"] if self.begun else [])]

    def record(self) -> dict[str, Any] | None:
        """Return the record of the run; None if there is none that can be read."""
        with contextlib.suppress(IntegrityError):
            return read_record(self.folder)
        return None


@dataclass(frozen=True)
class Share:
    """The resources of a run, and their cluster ("" for this machine alone)."""

    cpus: int
    gpus: int
    address: str
