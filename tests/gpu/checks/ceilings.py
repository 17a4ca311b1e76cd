"""What the card and its libraries are, and the most that they can do."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from tests.gpu.program import Bench, seconds

PACKAGES = (
    *("torch", "triton", "transformers", "peft", "trl", "accelerate", "datasets"),
    *("bitsandbytes", "liger-kernel", "torchao"),
)


def check(bench: Bench) -> None:
    """Versions, memory, the rate of copies and of a large product in bfloat16."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    free, total = torch.cuda.mem_get_info()
    bench.say(
        card=torch.cuda.get_device_name(),
        capability=".".join(map(str, torch.cuda.get_device_capability())),
        memory_gib=round(total / 2**30, 2),
        free_gib=round(free / 2**30, 2),
        python=platform.python_version(),
        cuda=torch.version.cuda,
        packages=found,
    )
    size = 64 if bench.fake else 8192
    one = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    other = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    product = 2 * size**3 / seconds(lambda: one @ other, 20)
    bench.say(product_tflops=product / 1e12)
    bench.kept["product"] = product
    bytes_moved = torch.empty((1 << 12) if bench.fake else (1 << 31), dtype=torch.uint8).cuda()
    taken = seconds(bytes_moved.clone, 10)
    bench.say(copy_gb_per_second=2 * bytes_moved.numel() / taken / 1e9)
