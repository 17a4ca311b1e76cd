"""Where fused modules stand for those of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replace(model: Any, fits: Callable[[Any], bool], fused: Callable[[Any], Any]) -> int:
    """Put `fused(module)` in the place of every module that fits; how many there were."""
    count = 0
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if fits(module):
                setattr(parent, name, fused(module))
                count += 1
    return count
