"""One trial, wherever the engine has put it: the plain command in a separate process.

Nothing heavy is imported here, and nothing of the engine: every machine of a cluster imports this.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.machine import processes
from tuner.record.run_json import RUN

# What an engine and a launcher set for the process around this one is not for the trial's.
_NOT_PASSED_ON = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TUNER_LAUNCHED")


@dataclass(frozen=True)
class Share:
    """The resources of a trial, and their cluster ("" for this machine alone)."""

    cpus: int
    gpus: int
    address: str


def carry_out(config: Mapping[str, Any]) -> dict[str, float]:
    """Run `tuner VERB ...` until it ends, and return its exit code.

    Args:
        config: `arguments` of the command, `cwd`, `folder` of the run, and `log`, a file that
            takes the output of the command.
    """
    folder = Path(config["folder"])
    more = ["--resume"] if (folder / RUN).exists() else []
    prepare = _end_with_parent if sys.platform == "linux" else None
    arguments = [*config["arguments"], *more, "--json"]
    with open(config["log"], "ab") as log:
        code = processes.trial(arguments, config["cwd"], log, _NOT_PASSED_ON, prepare)
    return {"exit_code": float(code)}


def _end_with_parent() -> None:
    """Request SIGTERM when the engine's process is gone: the step is then finished and sealed."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
