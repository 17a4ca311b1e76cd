"""The number of compute threads, chosen before torch is loaded. `waiting` sets how they wait.

torch counts processors by affinity, without hyper-threads, but ignores a container's quota.
OpenMP's variables are read once, when its library is loaded; what the user has set is kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

WAIT, SPIN, COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"
# What this module has set, NAME=VALUE, so that a child does not take it for the user's.
_CHOSEN = "TUNER_THREADS"
_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def choose() -> None:
    """Set what the user has not set, for this process and its children; before torch's import."""
    if is_open(COUNT) and (present := processors()) < _affinity():
        set_own(COUNT, present)


def adapts() -> bool:
    """Return whether tuner chooses how threads wait, on a system that measures waiting time."""
    own = WAIT in os.environ or SPIN in os.environ
    return not own and Path("/proc/self/schedstat").exists()


def is_open(name: str) -> bool:
    """Return whether the user has not set a variable."""
    return name not in os.environ or name in _chosen()


def set_own(name: str, value: int, environment: MutableMapping[str, str] | None = None) -> None:
    """Set a variable of this process or of a future child, marked as set by tuner."""
    target = os.environ if environment is None else environment
    target[name] = str(value)
    _note({*_chosen(target), name}, target)


def leave_count_open() -> None:
    """Unset a number of threads that tuner has set: the launcher sets it again."""
    if COUNT in _chosen():
        _note(_chosen() - {COUNT}, os.environ)
        del os.environ[COUNT]


def processors() -> int:
    """Return the processors this process may keep busy, by its affinity and its cgroup's quota.

    A part of a processor counts as one: a quota of 1.5 is used up by two threads, not by one.
    """
    allowed = quota()
    return _affinity() if allowed is None else max(1, min(_affinity(), math.ceil(allowed)))


def quota(cgroups: Path = _CGROUPS, own: Path = _OWN) -> float | None:
    """Return the processors that the process's cgroup, or one above it, allows; None: no limit.

    Args:
        cgroups: where the hierarchies are mounted, version 1 or 2.
        own: the file with the process's place in them.
    """
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return None
    found = []
    for _, controllers, place in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (cgroups / controllers, cgroups / "cpu") if controllers else (cgroups,):
            # In a container the place may be the host's path: its root is mounted then.
            inside = root / place.strip("/")
            for folder in (inside, *inside.parents):
                if folder.is_relative_to(root) and (limit := _limit(folder)):
                    found.append(limit)
    return min(found, default=None)


def describe() -> dict[str, Any]:
    """Return the choice, for `tuner doctor` and `run.json`: what is set, and who set it."""
    names = [name for name in (COUNT, WAIT, SPIN) if name in os.environ]
    return {
        "processors": processors(),
        "quota": quota(),
        "sleep_while_shared": adapts(),
        "variables": {
            name: {
                "value": os.environ[name],
                "set_by": "tuner" if name in _chosen() else "environment",
            }
            for name in names
        },
    }


def sentence(found: Mapping[str, Any]) -> str:
    """Describe in one line what `describe` found."""
    variables = [
        f"{name}={item['value']} (set by {item['set_by'].replace('environment', 'you')})"
        for name, item in found["variables"].items()
    ]
    if COUNT not in found["variables"]:
        variables.insert(0, f"one per processor ({found['processors']})")
    if found["sleep_while_shared"]:
        variables.append("they sleep at barriers while other processes need the processors")
    return ", ".join(variables)


def _chosen(environment: Mapping[str, str] | None = None) -> set[str]:
    given = os.environ if environment is None else environment
    pairs = (pair.partition("=") for pair in given.get(_CHOSEN, "").split())
    return {name for name, _, value in pairs if given.get(name) == value}


def _note(names: set[str], environment: MutableMapping[str, str]) -> None:
    environment[_CHOSEN] = " ".join(f"{name}={environment[name]}" for name in sorted(names))


def _affinity() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _limit(folder: Path) -> float | None:
    """Return a folder's quota over its period."""
    try:
        if (file := folder / "cpu.max").exists():
            allowed, period = file.read_text("ascii").split()[:2]
        else:
            allowed = (folder / "cpu.cfs_quota_us").read_text("ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text("ascii").strip()
        return float(allowed) / float(period) if float(allowed) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        # "max", or no such file: no limit here.
        return None
