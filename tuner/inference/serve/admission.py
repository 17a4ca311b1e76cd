"""Admission control: as many requests as may wait, and none while the server is stopping.

Everything here happens in the event loop's thread; a signal's handler only sets `draining`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from tuner.inference.serve.refusal import Refused, stopping

_LONGEST_RETRY_SECONDS = 60


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        max_queue: requests that may wait while one is answered.
        max_new_tokens: longest answer in tokens.
        max_request_bytes: largest body of a request.
        seconds: how long a request may take, queueing included.
        temperature: for requests that set none.
    """

    max_queue: int = 16
    max_new_tokens: int = 1024
    max_request_bytes: int = 1 << 20
    seconds: float = 120.0
    temperature: float = 1.0


class Admission:
    """Admits requests and counts them.

    Attributes:
        draining: no further ones are admitted.
    """

    def __init__(self, max_queue: int) -> None:
        self._most = max_queue + 1
        self._usual_seconds = 1.0
        self._entered: dict[str, float] = {}
        self.draining = False

    @property
    def drained(self) -> bool:
        """Return whether none is admitted, and none waits or is being answered."""
        return self.draining and not self._entered

    def enter(self, request: str) -> None:
        """Admit a request by its id.

        Raises:
            Refused: 429 if too many wait, 503 if the server is stopping.
        """
        if self.draining:
            raise stopping()
        waiting = len(self._entered)
        if waiting >= self._most:
            seconds = math.ceil(self._usual_seconds * waiting / 2)
            wait = str(min(max(seconds, 1), _LONGEST_RETRY_SECONDS))
            message = f"{waiting} requests are already waiting; try again in {wait} s"
            raise Refused(429, message, "queue_full", headers={"retry-after": wait})
        self._entered[request] = time.monotonic()

    def leave(self, request: str) -> None:
        """Free the place of a request for another, if it still has one."""
        entered = self._entered.pop(request, None)
        if entered is not None:
            seconds = time.monotonic() - entered
            self._usual_seconds = 0.8 * self._usual_seconds + 0.2 * seconds
