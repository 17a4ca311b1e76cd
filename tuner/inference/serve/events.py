"""What the worker's thread sends to the event loop while it answers a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuner.inference.listener import Answer
from tuner.inference.serve.refusal import Refused


@dataclass(frozen=True)
class Piece:
    """A piece of the text that answers a prompt."""

    prompt: int
    text: str


@dataclass(frozen=True)
class Whole:
    """The answer to a prompt; its pieces came before."""

    prompt: int
    answer: Answer


@dataclass(frozen=True)
class Labelled:
    """The probability of each label for an input."""

    input: int
    probabilities: dict[str, float]


@dataclass(frozen=True)
class End:
    """The last event; with an error, the answers are not complete."""

    error: Refused | None = None


Event = Piece | Whole | Labelled | End


class Channel:
    """Carries the events of one request, until `End` or until the client is gone.

    Args:
        receive: the ASGI channel of the request, its body read.
        ended: called in the event loop when `End` arrives.

    Attributes:
        closed: nothing is read from here on; seen from any thread.
    """

    def __init__(self, receive: Callable[[], Any], ended: Callable[[], None]) -> None:
        self.closed = False
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._client = asyncio.ensure_future(self._watch(receive))

    def put(self, event: Event) -> None:
        """Send an event; from any thread."""

        def deliver() -> None:
            if isinstance(event, End):
                self._ended()
            self._events.put_nowait(event)

        # Once the loop has ended, nothing reads.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(deliver)

    async def next(self) -> Event | None:
        """Return the next event; None if the client is gone."""
        event = await self._events.get()
        return None if self._client.done() else event

    def close(self) -> None:
        """Stop reading."""
        self.closed = True
        self._client.cancel()

    async def _watch(self, receive: Callable[[], Any]) -> None:
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._events.put_nowait(None)
