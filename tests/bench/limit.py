"""The processor's own limit, float32 matmul FLOP a second: `python -m tests.bench.limit`."""

from __future__ import annotations

import json
import time

import torch

# Large enough for the rate to be flat, small enough for a processor's cache to be no matter.
_SIZE = 2048
_SECONDS = 1.5


def measure() -> float:
    """The best of the rates seen within some seconds, in FLOP a second."""
    a, b = (torch.randn(_SIZE, _SIZE) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    best, ends = 0.0, time.perf_counter() + _SECONDS
    while time.perf_counter() < ends:
        start = time.perf_counter()
        for _ in range(4):
            torch.mm(a, b, out=out)
        best = max(best, 4 * 2 * _SIZE**3 / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    print(json.dumps({"flops": measure()}))
