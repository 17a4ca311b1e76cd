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
    """Import without garbage collection, since imports make no garbage.

    torch, transformers and peft create so many objects that collections take a fifth of the time;
    what was imported is also left out of later ones.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def function(place: Place) -> Callable[..., Any]:
    """Return the function that a place names.

    Args:
        place: `package.module:name`, imported now; or the function itself.
    """
    if callable(place):
        return place
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
