"""What a run sets on CUDA, and what it takes of a GPU's memory.

torch is imported in the functions: a run on a CPU that has not imported it needs nothing here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from tuner.errors import ResourceError
from tuner.machine import cuda_driver, ranks


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use only kernels that give the same bits every time; enter before CUDA starts."""
    if not wanted:
        yield
        return
    import torch

    # cuBLAS reads it once, for its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = filled


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Compute float32 matrix products in TF32, with 10 bits of mantissa."""
    if not wanted:
        yield
        return
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def refuse_shared(device: str) -> None:
    """Refuse processes that share a GPU, over which NCCL would fail or hang.

    NCCL tells GPUs apart by host and place on the bus, which the slices of a card have in common.

    Args:
        device: that the run trains on, cpu or cuda.

    Raises:
        ResourceError: another process has the GPU of this one.
    """
    if device == "cpu" or ranks.place().world == 1:
        return
    import torch

    own = cuda_driver.ask().devices[torch.cuda.current_device()]
    every = ranks.gather((socket.gethostname(), own.place))
    if len(set(every)) < len(every):
        raise ResourceError(
            "processes of this run share a GPU",
            f"{len(every)} processes were started, and they see {len(set(every))} GPUs (the slices "
            "of one, by MIG, count as one: NCCL connects none)",
            "start one per GPU, and show each its own (srun --gpus-per-task=1) or all of them",
        )


def peak_memory() -> dict[str, int]:
    """Return the most bytes that were allocated and reserved on the GPU since the last call.

    Empty where this process does not use a GPU.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    found = {
        "allocated": int(torch.cuda.max_memory_allocated()),
        "reserved": int(torch.cuda.max_memory_reserved()),
    }
    torch.cuda.reset_peak_memory_stats()
    return found
