"""Importing the heavy libraries quickly, and not before they are needed."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Where it is 1, functions that are marked to be compiled stay as they are.
_UNCOMPILED = "TORCHDYNAMO_DISABLE"
# `package.module:name` of a function that is imported when it is called; or the function itself.
Place = str | Callable[..., Any]


@contextmanager
def importing() -> Iterator[None]:
    """Import without garbage collection, since imports make no garbage, and without the compiler.

    torch, transformers and peft create so many objects that collections take a fifth of the time;
    what was imported is also left out of later ones. bitsandbytes marks functions to be compiled
    that only devices without kernels of its own run, and the compiler takes a second to import.
    """
    unset = _UNCOMPILED not in os.environ
    os.environ.setdefault(_UNCOMPILED, "1")
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if unset:
            os.environ.pop(_UNCOMPILED, None)


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
