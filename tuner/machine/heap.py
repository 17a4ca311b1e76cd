"""Freed memory: kept in the process during training, returned to the system during export.

Every step frees and allocates the same gigabytes. By default glibc returns large blocks to the
system at once and requests them again, with a page fault for every 4 KiB; with these settings it
reuses what it has.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# The options' numbers in glibc's malloc.h, and their values in bytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER_TRIM, _ONE_GIB, _HALF_A_HEAP, _ONE_MIB = 2**31 - 1, 2**30, 2**25, 2**20


def leave_fewer_holes() -> None:
    """Set torch's allocators up for blocks of ever other sizes; call before its first tensor.

    In main memory it aligns blocks of 2 MiB and more to 2 MiB: freed ones then fit later ones of
    similar size. It is torch's own switch for transparent huge pages, which the blocks use where
    available. On a GPU, segments grow: every packed micro-batch has another number of tokens.
    """
    # torch refuses to read both names.
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    # Torch would warn on a kernel without them.
    if Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed() -> str:
    """Keep freed memory from now on, with glibc; return a line for the log."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return "freed memory goes back to the system: the C library has no mallopt"
    kept = library.mallopt(_MMAP_THRESHOLD, _ONE_GIB)
    # Some versions refuse more than half of a thread's maximum heap.
    kept = kept or library.mallopt(_MMAP_THRESHOLD, _HALF_A_HEAP)
    if not (kept and library.mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)):
        return "freed memory goes back to the system: mallopt refused"
    return "freed memory stays in the process (mallopt) until training has ended"


def keep_nothing() -> None:
    """Make glibc return every large block to the system when it is freed.

    By default glibc soon keeps blocks of up to 32 MiB in its heap, where the float64 copies of
    layers, one after the other, leave holes that add up to the whole model.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _ONE_MIB)


def give_back() -> None:
    """Return free memory to the system, and free GPU memory to other processes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
