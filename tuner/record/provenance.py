"""Where a run comes from and what it used: versions, command, source state, clocks, memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuner.console.redact import redact
from tuner.machine import gpu, threads
from tuner.record import git_files

_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers", "safetensors")

# With these set, accelerate would override the recipe.
_OVERRULING = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS")


class Clock:
    """Seconds of each phase, added up over resumed runs, and the most GPU memory it took.

    Args:
        laps: what earlier starts of the same run took.
        gpu: the peaks of earlier starts, in bytes.
    """

    def __init__(
        self, laps: Mapping[str, float], gpu: Mapping[str, Mapping[str, int]] | None = None
    ) -> None:
        self.laps = dict(laps)
        self.gpu = {name: dict(peaks) for name, peaks in (gpu or {}).items()}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End phase `name` now."""
        now = time.perf_counter()
        self.laps[name] = round(self.laps.get(name, 0.0) + now - self.last, 3)
        parts = [seconds for key, seconds in self.laps.items() if key != "total"]
        self.laps["total"] = round(sum(parts), 3)
        self.last = now
        for kind, most in gpu.peak_memory().items():
            peaks = self.gpu.setdefault(name, {})
            peaks[kind] = max(peaks.get(kind, 0), most)


def describe() -> dict[str, Any]:
    """Return versions, command line, platform and source state for `run.json`."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": {"count": _threads(), **threads.describe()},
        "command": redact(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "git": git_files.commit(Path.cwd()),
    }


def drop_overruling() -> list[str]:
    """Drop the variables with which accelerate would override the recipe; return their names."""
    return [name for name in _OVERRULING if os.environ.pop(name, None) is not None]


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions that provide these modules, by module."""
    brought = {"llama_cpp": "llama-cpp-python", "compressed_tensors": "compressed-tensors"}
    return {name: importlib.metadata.version(brought.get(name, name)) for name in modules}


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process."""
    try:
        # Linux gives getrusage the peak of the process that started this one, where that is higher.
        status = Path("/proc/self/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _threads() -> int:
    """The threads that torch computes with."""
    import torch

    return torch.get_num_threads()
