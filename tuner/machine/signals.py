"""Stopping on SIGTERM and Ctrl-C without losing or tearing anything."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from tuner.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Turns SIGTERM and SIGINT into `Interrupted`, at once or, inside `deferred`, when it is safe.

    Entered outside the main thread it installs nothing: Python delivers signals to the main thread
    only.

    Attributes:
        requested: the number of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._depth = 0
        self._pid = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._pid = os.getpid()
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: installed from C, which Python cannot restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold back a signal; raise it at `check`, or at the end of the outermost block.

        Raises:
            Interrupted: at the end, if a signal came and the block raised nothing itself.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._depth == 0:
            self.check()

    def check(self) -> None:
        """Raise if a signal came: for points where a step is finished and its checkpoint sealed.

        Also useful between stages: a library may have swallowed the exception.

        Raises:
            Interrupted: with the signal's exit code.
        """
        if self.requested is not None:
            name = signal.Signals(self.requested).name
            raise Interrupted(
                self.requested, f"stopped by {name}", "run the same command with --resume"
            )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked worker inherits the handler, but must die as if it had none.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.requested is None:
            self.requested = number
        if self._depth == 0:
            self.check()
