"""The date that chat templates write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import Any


@contextlib.contextmanager
def on(date: str | None) -> Iterator[None]:
    """Let templates that write today's date write this one.

    transformers gives templates its own clock and takes no function from a caller.

    Args:
        date: as 2026-11-28, perhaps with a time; None: today's.
    """
    if date is None:
        yield
        return
    from transformers.utils import chat_template_utils

    moment = date

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Then:
            return cls.fromisoformat(moment)

    library: Any = chat_template_utils
    clock = library.datetime
    library.datetime = Then
    try:
        yield
    finally:
        library.datetime = clock
