"""The machine's own limit, matmul FLOP a second: `python -m tests.bench.limit DEVICE DTYPE`."""

from __future__ import annotations

import json
import sys
import time

import torch

# Large enough for the rate to be flat, small enough for a processor's cache to be no matter.
_SIZES = {"cpu": 2048, "cuda": 8192}
_SECONDS = 1.5


def measure(device: str, dtype: torch.dtype) -> float:
    """The best of the rates seen within some seconds, in FLOP a second."""
    size = _SIZES[device]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    best, ends = 0.0, time.perf_counter() + _SECONDS
    while time.perf_counter() < ends:
        _wait(device)
        start = time.perf_counter()
        for _ in range(4):
            torch.mm(a, b, out=out)
        _wait(device)
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start))
    return best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps({"flops": measure(sys.argv[1], getattr(torch, sys.argv[2]))}))
