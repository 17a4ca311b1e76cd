"""Peak memory while adapters are folded into a base, before training begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuner.plan.memory.estimate import WIDTHS

if TYPE_CHECKING:
    from tuner.model.base import Base
    from tuner.model.layers import Skeleton
    from tuner.plan.memory.estimate import Workload

# A layer in float64: its weight, the update, and their sum.
_EXACT = 3 * 8


def peak(shape: Workload, base: Base, skeleton: Skeleton) -> int:
    """Return the bytes while adapters are folded into the base; 0 where none are.

    On a CPU the files of the base stay mapped until the last weight has left them, so they count
    twice.

    Args:
        shape: of the run.
        base: what is folded into it has to be read, too.
        skeleton: its layers.
    """
    if not base.folded:
        return 0
    whole = int(shape.parameters * WIDTHS[shape.dtype])
    largest = max((inputs * outputs for inputs, outputs in skeleton.linears.values()), default=0)
    files = [file for each in base.folded for file in each.folder.glob("*.safetensors")]
    read = sum(file.stat().st_size for file in files)
    copies = 2 if shape.device == "cpu" else 1
    return shape.process + copies * whole + _EXACT * largest + read
