"""What the standard input holds, as text."""

from __future__ import annotations

import sys
from collections.abc import Callable


def line(prompt: str, interactive: bool) -> str | None:
    """Return the next line, after a prompt on a terminal; None at the end.

    Raises:
        DataError: the line is not UTF-8.
    """
    try:
        if interactive:
            import readline  # noqa: F401  # gives `input` a history and editing

            text = _in_utf8(lambda: input(prompt))
        elif not (text := _in_utf8(sys.stdin.readline)):
            return None
    except EOFError:
        return None
    return text.rstrip("\r\n")


def rest() -> str:
    """Return all that is left.

    Raises:
        DataError: it is not UTF-8.
    """
    return _in_utf8(sys.stdin.read)


def _in_utf8(read: Callable[[], str]) -> str:
    from tuner.errors import DataError

    try:
        text = read()
        # Where the locale names no encoding, Python lets broken bytes through as surrogates.
        text.encode()
    except UnicodeError as error:
        raise DataError(
            "the input cannot be read", f"it is not UTF-8: {error}", "send it as UTF-8"
        ) from None
    return text
