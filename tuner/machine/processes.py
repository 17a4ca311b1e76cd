"""Every program that tuner starts, each with its command and its environment.

| function | program | environment |
|---|---|---|
| `rank` | `tuner` again, once per device | ours and its place; no standard input |
| `run_of_ours` | `tuner` again: one run of several | ours; without the place of a process in Ray |
| `fresh` | one of our modules, which loads an artefact | ours, the Hub offline |
| `background` | one of our modules, while we go on | ours, one thread; without a place |
| `python` | a program in Python: pip, llama.cpp's converter | ours |

No other module starts a process, and nothing goes through a shell. `environment` is what all of
them get. A child in Python has safe paths (`-P` and, for its own children, PYTHONSAFEPATH): the
current folder holds data, not modules.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen as Popen
from typing import IO

# Runs a module of the package that it is in, wherever that is.
_START = str(Path(__file__).with_name("start.py"))
# What Ray and a launcher set for the process around a run is not for the run's.
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TUNER_LAUNCHED")
# Search paths of programs; an empty entry is the current folder.
_PATHS = ("PYTHONPATH", "PATH", "LD_LIBRARY_PATH")


def environment(further: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that every child gets: ours, with safe paths, and `further`."""
    given = {**os.environ, **(further or {})}
    make_safe(given)
    return given


def make_safe(variables: dict[str, str] | os._Environ[str]) -> None:
    """Keep the current folder off the search paths that these variables name."""
    variables["PYTHONSAFEPATH"] = "1"
    for name in _PATHS:
        if name not in variables:
            continue
        entries = variables[name].split(os.pathsep)
        kept = os.pathsep.join(entry for entry in entries if os.path.isabs(entry))
        if kept:
            variables[name] = kept
        else:
            del variables[name]


def ended(process: Popen[bytes], seconds: float) -> bool:
    """Wait for a process to end, at most so many seconds; return whether it has."""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def rank(arguments: Sequence[str], variables: Mapping[str, str]) -> Popen[bytes]:
    """Start `tuner ARGUMENTS` as one process of several.

    In its own process group: Ctrl-C reaches only the parent and is passed on once.
    """
    return Popen(
        _ours("tuner", *arguments),
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        process_group=0,
    )


def run_of_ours(arguments: Sequence[str], log: IO[bytes], folder: str | None = None) -> Popen[str]:
    """Start `tuner ARGUMENTS` with its events on a pipe and its stderr in `log`.

    In its own process group: Ctrl-C reaches only this process and is passed on once. With `folder`
    it runs there, for Ray, which may end this process at any time: its events are in `log`, too.
    """
    variables = environment()
    if folder is not None:
        variables = {key: item for key, item in variables.items() if key not in _PLACE}
    return Popen(
        _ours("tuner", *arguments),
        env=variables,
        cwd=folder,
        preexec_fn=None if folder is None else end_with_parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if folder is None else log,
        stderr=log,
        encoding="utf-8",
        errors="replace",
        process_group=0,
    )


def end_with_parent() -> None:
    """Request SIGTERM for this process when its parent ends, on Linux: its step is then sealed."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


def fresh(module: str, argument: str) -> subprocess.CompletedProcess[str]:
    """Run one of our modules to its end with one argument; its output is in the result."""
    return _finished(_ours(module, argument), {"HF_HUB_OFFLINE": "1"})


def background(module: str, arguments: Sequence[str], log: IO[bytes]) -> Popen[bytes]:
    """Start one of our modules next to this process, with its output in `log`.

    Its standard input is a pipe that ends with this process. It has a session of its own: Ctrl-C
    does not reach it.
    """
    variables = {**environment(), "OMP_NUM_THREADS": "1"}
    return Popen(
        _ours(module, *arguments),
        env={key: item for key, item in variables.items() if key not in _PLACE},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end: another program's module (`-m pip`) or file."""
    return _finished([sys.executable, "-P", *arguments])


def _ours(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", _START, module, *arguments]


def _finished(
    command: Sequence[str], further: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment(further),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
