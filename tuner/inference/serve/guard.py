"""The checks of a request before the endpoints: key, host, type and size; and its log line.

Plain ASGI, so that a request is refused before its body is read. Without a key, a server on
loopback also answers only to its own host names, and every server answers only JSON: no page in a
browser can reach it, by DNS rebinding or by a form.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.inference.serve.admission import Admission
from tuner.inference.serve.refusal import Refused, stopping

_BODY_SECONDS = 30.0
GONE = 499


@dataclass
class Facts:
    """What the log says about a request: never its contents.

    Attributes:
        endpoint: its path, if there is such an endpoint.
        model: its name, if there is such a model.
        stream: whether the answer is sent in pieces.
        status: of the response; 499: the client left first.
        prompt_tokens: of all prompts.
        tokens: of all answers.
        finish: why the answer ended, or the code of the error.
        id: of the response.
        drop: called when the request is over, however it ends.
    """

    endpoint: str | None = None
    model: str | None = None
    stream: bool = False
    status: int | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    finish: str | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    drop: Callable[[], None] = lambda: None

    def line(self, seconds: float) -> dict[str, Any]:
        """Return the line for the log."""
        names = ("endpoint", "model", "stream", "status", "prompt_tokens", "tokens", "finish")
        return {name: getattr(self, name) for name in names} | {"seconds": round(seconds, 3)}


@dataclass(frozen=True)
class Gate:
    """Which requests a server admits.

    Attributes:
        key: sha256 of the API key; None: anyone.
        hosts: allowed values of the Host header; None: any.
        max_bytes: largest body.
    """

    key: bytes | None
    hosts: frozenset[str] | None
    max_bytes: int

    def check(self, scope: Scope) -> None:
        """Check a request's headers.

        Raises:
            Refused: 401, 403, 413 or 415.
        """
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.hosts is not None and not _is_own(headers.get(b"host", b""), self.hosts):
            raise Refused(403, "this server answers to its own host name only", "host")
        if self.key is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            same = hmac.compare_digest(digest(given.strip()), self.key)
            if scheme.lower() != b"bearer" or not same:
                challenge = {"www-authenticate": "Bearer"}
                raise Refused(
                    401, "the API key is missing or wrong", "invalid_api_key", None, challenge
                )
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":
                message = "the request must be JSON: send 'Content-Type: application/json'"
                raise Refused(415, message, "content_type")
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > self.max_bytes:
                raise self.too_long()

    def too_long(self) -> Refused:
        """Return the error for a body over the limit."""
        message = f"the request is larger than {self.max_bytes} bytes"
        return Refused(413, message, "request_too_large", headers={"connection": "close"})


def digest(key: bytes) -> bytes:
    """Return a key the way it is stored and compared: of one length, whatever is sent."""
    return hashlib.sha256(key).digest()


def _is_own(host: bytes, names: frozenset[str]) -> bool:
    name = host.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name in names:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """The ASGI application around the endpoints.

    Args:
        app: the endpoints.
        door: which requests it admits.
        admission: says whether the server is stopping.
        log: called with each request's line.
        failed: called with an unexpected error.
    """

    def __init__(
        self,
        app: ASGIApp,
        door: Gate,
        admission: Admission,
        log: Callable[[dict[str, Any]], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._app = app
        self._door = door
        self._admission = admission
        self._log = log
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a connection."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        facts, began = Facts(), time.monotonic()
        scope.setdefault("state", {})["facts"] = facts

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and facts.status is None:
                facts.status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, note)
        except Refused as refused:
            facts.finish = refused.code
            body, headers = json.dumps(refused.body), refused.headers
            response = Response(body, refused.status, headers, "application/json")
            await response(scope, receive, note)
        except Exception as error:
            # The endpoints have sent a 500 by now.
            self._failed(error)
        finally:
            facts.drop()
            self._admission.leave(facts.id)
            if facts.status is None:
                facts.status = GONE
            self._log(facts.line(time.monotonic() - began))

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._door.check(scope)
        if self._admission.draining:
            raise stopping()
        try:
            body = await asyncio.wait_for(self._body(receive), _BODY_SECONDS)
        except TimeoutError:
            message = f"the request was not received within {_BODY_SECONDS:.0f} seconds"
            raise Refused(408, message, "timeout", headers={"connection": "close"}) from None
        if body is None:
            return
        given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return given.pop() if given else await receive()

        await self._app(scope, again, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """Return the whole body; None if the client left."""
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._door.max_bytes:
                raise self._door.too_long()
            if not message.get("more_body"):
                return b"".join(parts)
