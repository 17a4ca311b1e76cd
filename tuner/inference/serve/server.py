"""The server's process: its socket, its signals, its shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from tuner.console.console import Console
from tuner.errors import ResourceError
from tuner.inference.serve import app as application
from tuner.inference.serve.admission import Admission, Limits
from tuner.inference.serve.guard import Gate, Guard, digest
from tuner.inference.serve.models import ServedModel
from tuner.inference.serve.worker import Worker

if TYPE_CHECKING:
    from tuner.inference.engine import Inference

_POLL_SECONDS = 0.05
# For responses that are written but not yet read.
_LEAVING_SECONDS = 5


@dataclass(frozen=True)
class Address:
    """Where a server listens: host and port as asked for, and resolved."""

    host: str
    port: int
    family: socket.AddressFamily
    resolved: Any

    @property
    def loopback(self) -> bool:
        """Return whether only this machine reaches it."""
        return ipaddress.ip_address(str(self.resolved[0]).partition("%")[0]).is_loopback


def resolve(host: str, port: int) -> Address:
    """Resolve a host name.

    Raises:
        ResourceError: it does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _unbound(host, port, error) from None
    family, _, _, _, resolved = found[0]
    return Address(host, port, family, resolved)


def listen(address: Address) -> tuple[socket.socket, str]:
    """Open a listening socket and return it with its URL.

    Raises:
        ResourceError: the address is taken or not this machine's.
    """
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address.resolved)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise _unbound(address.host, address.port, error) from None
    host = f"[{address.host}]" if ":" in address.host else address.host
    return listener, f"http://{host}:{listener.getsockname()[1]}"


def _unbound(host: str, port: int, error: OSError) -> ResourceError:
    return ResourceError(
        f"cannot listen on {host}, port {port}",
        error.strerror or str(error),
        "choose another --host or --port; --port 0 takes a free one",
    )


class Server:
    """A server on one open base.

    Args:
        opened: the base.
        models: it and its adapters, by name.
        limits: what a request may take.
        key: the API key; None: open to anyone.
        console: where requests are logged.

    Attributes:
        signal: the one that stopped it, if any.
    """

    def __init__(
        self,
        opened: Inference,
        models: dict[str, ServedModel],
        limits: Limits,
        key: str | None,
        console: Console,
    ) -> None:
        self._console = console
        self._models = models
        self._limits = limits
        self._key = key
        self._admission = Admission(limits.max_queue)
        self._worker = Worker(opened, self._failed)
        self._uvicorn: uvicorn.Server | None = None
        self._url = ""
        self.signal: int | None = None

    def run(self, listener: socket.socket, url: str, address: Address) -> None:
        """Answer requests until a signal comes and the admitted ones are answered."""
        self._url = url
        encoding = ThreadPoolExecutor(1, "prompts")
        endpoints = application.Endpoints(
            self._models, self._worker, self._admission, self._limits, int(time.time()), encoding
        )
        own = frozenset((address.host.lower(), "localhost"))
        door = Gate(
            digest(self._key.encode()) if self._key else None,
            own if address.loopback and not self._key else None,
            self._limits.max_request_bytes,
        )
        app: Any = application.build(endpoints, self._life)
        guarded = Guard(app, door, self._admission, self._tell, self._failed)
        config = uvicorn.Config(
            guarded,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_LEAVING_SECONDS,
        )
        self._uvicorn = uvicorn.Server(config)
        # uvicorn installs it as the handler of SIGINT and SIGTERM.
        self._uvicorn.handle_exit = self._stop  # type: ignore[method-assign]
        try:
            self._uvicorn.run(sockets=[listener])
        finally:
            self._worker.abandon()
            self._worker.stop(_LEAVING_SECONDS)
            encoding.shutdown(wait=False, cancel_futures=True)

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        """Admit no more requests after one signal; give up on the others after a second one."""
        if self.signal is not None:
            self._worker.abandon()
        self.signal = self.signal or sig
        self._admission.draining = True

    @contextlib.asynccontextmanager
    async def _life(self, _: Any) -> AsyncIterator[None]:
        self._worker.start()
        names = list(self._models)
        self._console.event("ready", url=self._url, models=names, api_key=self._key is not None)
        self._console.text(f"{self._url}/v1 serves {', '.join(names)}; Ctrl-C stops the server")
        watch = asyncio.create_task(self._leave())
        yield
        watch.cancel()

    async def _leave(self) -> None:
        while not self._admission.drained:
            await asyncio.sleep(_POLL_SECONDS)
        assert self._uvicorn is not None
        self._uvicorn.should_exit = True

    def _tell(self, line: dict[str, Any]) -> None:
        self._console.event("request", **line)
        self._console.text(
            f"{line['status']} {line['endpoint'] or '-'} {line['model'] or '-'}: "
            f"{line['prompt_tokens']} + {line['tokens']} tokens, {line['seconds']:.2f} s"
        )

    def _failed(self, error: Exception) -> None:
        """Log where a bug is, without the contents of the request."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.name}, {Path(last.filename).name}:{last.lineno}"
        self._console.warn(f"a request failed: {type(error).__name__} in {place}")
