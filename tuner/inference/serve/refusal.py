"""Error responses in OpenAI's format."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: what is wrong, for the caller.
        code: short name of it, for programs.
        parameter: of the request, if one is at fault.
        headers: further ones of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        parameter: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}
        kinds = {429: "rate_limit_error", 500: "server_error", 503: "service_unavailable_error"}
        kind = kinds.get(status, "timeout_error" if status == 504 else "invalid_request_error")
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": parameter, "code": code}
        }


def too_late(seconds: float) -> Refused:
    """Return the error for a request over its time limit."""
    # A retry would take as long; openai's client would otherwise retry by itself.
    message = f"the answer took longer than the server allows: {seconds:g} seconds"
    return Refused(504, message, "timeout", headers={"x-should-retry": "false"})


def failed() -> Refused:
    """Return the error for a bug of the server."""
    return Refused(500, "the server failed to answer; its log says where", "internal")


def stopping() -> Refused:
    """Return the error of a server that is stopping."""
    headers = {"retry-after": "5", "connection": "close"}
    return Refused(503, "the server is stopping", "stopping", headers=headers)
