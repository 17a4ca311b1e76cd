"""Replacing modules of a model by fused ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replace(model: Any, fits: Callable[[Any], bool], fused: Callable[[Any], Any]) -> int:
    """Replace every module that fits by `fused(module)`; return their number."""
    count = 0
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if fits(module):
                setattr(parent, name, fused(module))
                count += 1
    return count
