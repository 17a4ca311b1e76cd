"""Admission control: as many requests as may wait, and none while the server is stopping.

Everything here happens in the event loop's thread; a signal's handler only sets `draining`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


class Desk:
    """Admits requests and counts them.

    Attributes:
        inside: requests that wait or are being answered.
        draining: no further ones are admitted.
    """

    def __init__(self, max_queue: int) -> None:
        self._most = max_queue + 1
        self._usual_seconds = 1.0
        self.inside = 0
        self.draining = False

    def enter(self) -> Ticket:
        """Admit a request.

        Raises:
            Refused: 429 if too many wait, 503 if the server is stopping.
        """
        if self.draining:
            raise stopping()
        if self.inside >= self._most:
            seconds = math.ceil(self._usual_seconds * self.inside / 2)
            wait = str(min(max(seconds, 1), _LONGEST_RETRY_SECONDS))
            message = f"{self.inside} requests are already waiting; try again in {wait} s"
            raise Refused(429, message, "queue_full", headers={"retry-after": wait})
        self.inside += 1
        return Ticket(self._leave)

    def _leave(self, seconds: float) -> None:
        self.inside -= 1
        self._usual_seconds = 0.8 * self._usual_seconds + 0.2 * seconds


class Ticket:
    """The place of a request that was admitted; given back once."""

    def __init__(self, leave: Callable[[float], None]) -> None:
        self._leave = leave
        self._entered = time.monotonic()
        self._valid = True

    def give_back(self) -> None:
        """Free the place for another request."""
        if self._valid:
            self._valid = False
            self._leave(time.monotonic() - self._entered)


class Mail:
    """Events from the worker's thread, read in the event loop, until the client is gone.

    Args:
        receive: the ASGI channel of the request, its body read.
    """

    def __init__(self, receive: Callable[[], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._gone: asyncio.Future[None] = asyncio.ensure_future(_leaving(receive))

    def put(self, event: Any, then: Callable[[], None] = lambda: None) -> None:
        """Send an event; from any thread. `then` is called in the event loop."""

        def deliver() -> None:
            then()
            self._events.put_nowait(event)

        # Once the loop has ended, nothing reads.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(deliver)

    async def next(self) -> Any:
        """Return the next event; None if the client is gone."""
        if self._events.empty():
            waiting = asyncio.ensure_future(self._events.get())
            try:
                await asyncio.wait({waiting, self._gone}, return_when=asyncio.FIRST_COMPLETED)
                return waiting.result() if waiting.done() else None
            finally:
                waiting.cancel()
        return None if self._gone.done() else self._events.get_nowait()

    def close(self) -> None:
        """Stop reading."""
        self._gone.cancel()


async def _leaving(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
