"""Importing the heavy libraries quickly."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import without searching for garbage, of which imports make none.

    torch, transformers and peft leave so many objects that the searches take a fifth of the time;
    what was imported is left out of later ones, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
