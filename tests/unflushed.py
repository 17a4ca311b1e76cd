"""`os.fsync` without the wait, in the process that imports this: a ninth of a tiny run's time.

No test cuts the power. Those of calls and their order see `os.fsync` called, and children that are
killed at a call (tests/faults.py) have the true one.
"""

from __future__ import annotations

import os


def _fsync(fd: int) -> None:
    # As the true one, an error for what is not open.
    os.fstat(fd)


os.fsync = _fsync  # type: ignore[assignment]
