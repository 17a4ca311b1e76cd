"""Memory that is freed: it stays in the process while a model is trained, and leaves it at once
while one is exported.

Every step frees and asks again for the same gigabytes. glibc gives large blocks back to the system
at once and fetches them anew, a page fault for every 4 KiB; told not to, it hands out what it has.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# The options' numbers in glibc's malloc.h, and their values in bytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER_TRIM, _ONE_GIB, _HALF_A_HEAP, _ONE_MIB = 2**31 - 1, 2**30, 2**25, 2**20


def align_large_blocks() -> None:
    """Have torch begin blocks of 2 MiB and more at such addresses; before its first tensor.

    Freed blocks then fit later ones of nearly their size, and a training step leaves fewer holes.
    It is torch's own switch for transparent huge pages, which the blocks get where the system has
    them.
    """
    # A kernel without them would have torch warn.
    if Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed() -> str:
    """Keep what is freed from now on, where the C library is glibc; a line for the log."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return "freed memory goes back to the system: the C library has no mallopt"
    kept = library.mallopt(_MMAP_THRESHOLD, _ONE_GIB)
    # Some versions refuse more than half of what a thread's heap may have.
    kept = kept or library.mallopt(_MMAP_THRESHOLD, _HALF_A_HEAP)
    if not (kept and library.mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)):
        return "freed memory goes back to the system: mallopt refused"
    return "freed memory stays in the process (mallopt) until training has ended"


def keep_nothing() -> None:
    """Have every large block go back to the system when it is freed.

    Left alone, glibc soon keeps blocks of up to 32 MiB in its heap, where the float64 copies of
    layers, one after the other, leave holes that come to as much as the whole model.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _ONE_MIB)


def give_back() -> None:
    """Return what is free to the system, and to other processes what is free on a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
