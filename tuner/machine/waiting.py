"""How threads wait for each other: spinning while the machine is free, asleep while it is shared.

libgomp, the OpenMP of torch's wheels for Linux, lets a thread that waits at a barrier spin 300,000
times, which takes milliseconds. That is fastest as long as nothing else runs. Next to another
process it spins on the processor that the thread it waits for would need, at each of a step's
thousands of barriers.

While a process has more OpenMP threads than there are processors, libgomp spins 100 times only
(its manual, GOMP_SPINCOUNT). So a watcher measures how long the threads of this process wait for
a processor, and while that is long, it keeps a second team of threads, which sleep. The
number of threads that compute stays the same, and with it the order of every sum: results are the
same to the last bit. tests/bench/neighbours.py measures the gain.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

from tuner.machine import threads

SECONDS = 0.25
# Waiting time as a share of waiting and computing time: above SHARED the machine counts as shared,
# below FREE for CALM measurements as free again.
SHARED, FREE, CALM = 0.10, 0.03, 8
# Below this share of a processor's time, a process computes too little for waiting to matter.
_IDLE = 0.2
_TASKS = Path("/proc/self/task")
_watcher: threading.Thread | None = None


def begin() -> None:
    """Start watching, unless the user has set how threads wait, or the system cannot measure it."""
    global _watcher
    if threads.adapts() and (_watcher is None or not _watcher.is_alive()):
        _watcher = threading.Thread(target=_watch, name="tuner-waiting", daemon=True)
        _watcher.start()


class CpuContention:
    """Whether other processes need the processors, by the last measurements.

    Attributes:
        shared: whether they do.
    """

    def __init__(self) -> None:
        self.shared = False
        self._calm = 0

    def note(self, computed: float, in_line: float) -> None:
        """Take one measurement into account.

        Args:
            computed: seconds on a processor, of all threads, since the last one.
            in_line: seconds that they were ready but had no processor.
        """
        if computed + in_line < _IDLE * SECONDS:
            return
        share = in_line / (computed + in_line)
        self._calm = self._calm + 1 if share < FREE else 0
        if share > SHARED:
            self.shared = True
        elif self._calm >= CALM:
            self.shared = False


class SpareThreads:
    """Sleeping OpenMP threads, so that there is one more thread than processors while it is held.

    Args:
        libraries: each libgomp that is loaded.
        computing: how many threads compute.
    """

    def __init__(self, libraries: list[ctypes.CDLL], computing: int) -> None:
        self._end = threading.Event()
        # The holder is part of the team, but is not counted.
        size = max(1, len(os.sched_getaffinity(0)) + 1 - computing) + 1
        self._holder = threading.Thread(target=self._hold, args=(libraries, size), daemon=True)
        self._holder.start()

    def _hold(self, libraries: list[ctypes.CDLL], size: int) -> None:
        # Each thread of the team calls free(NULL), which does nothing, and sleeps from then on.
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        for library in libraries:
            library.GOMP_parallel(nothing, None, ctypes.c_uint(size), ctypes.c_uint(0))
        self._end.wait()

    def let_go(self) -> None:
        """End its threads."""
        self._end.set()
        self._holder.join()


def loaded() -> list[ctypes.CDLL]:
    """Return the libgomp that this process has loaded; wheels may bring several."""
    lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/libgomp" in line}
    found = [ctypes.CDLL(path) for path in sorted(paths) if Path(path).exists()]
    return [library for library in found if hasattr(library, "GOMP_parallel")]


def _watch() -> None:
    crowd, team = CpuContention(), None
    last = _spent()
    while True:
        time.sleep(SECONDS)
        now = _spent()
        # The time of a thread that has ended is no longer counted.
        computed, in_line = (max(0, new - old) / 1e9 for new, old in zip(now, last, strict=True))
        last = now
        crowd.note(computed, in_line)
        # None while torch is not imported, or only partly.
        computing = getattr(sys.modules.get("torch"), "get_num_threads", None)
        if crowd.shared and team is None and computing and (libraries := loaded()):
            team = SpareThreads(libraries, computing())
        elif not crowd.shared and team is not None:
            team.let_go()
            team = None


def _spent() -> tuple[int, int]:
    """Return the nanoseconds that all threads spent on a processor, and waiting for one."""
    computed = in_line = 0
    for task in os.listdir(_TASKS):
        try:
            first, second, _ = (_TASKS / task / "schedstat").read_text("ascii").split()
        except (OSError, ValueError):
            # It has ended in the meantime.
            continue
        computed, in_line = computed + int(first), in_line + int(second)
    return computed, in_line
