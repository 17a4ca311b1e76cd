"""Importing the heavy libraries quickly, and not before they are needed."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# `package.module:name` of a function that is imported when it is called; or the function itself.
Place = str | Callable[..., Any]


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


def function(place: Place) -> Callable[..., Any]:
    """Return the function at a place.

    Args:
        place: `package.module:name`, imported now; or the function itself.
    """
    if callable(place):
        return place
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
