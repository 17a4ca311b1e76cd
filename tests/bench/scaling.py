"""What travels between GPUs in a step, and what that costs: the arithmetic, on paper.

Run as `python tests/bench/scaling.py`; prints the tables of BENCHMARKS.md. Nothing is measured:
sizes follow from the shapes of the models, times from the speeds below. Communication is counted as
if nothing of it were hidden behind computation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RANK = 16
TOKENS, MICRO_BATCHES = 8192, 2  # of one GPU in one step
FLOPS = 400e12  # half of what an H100 does in bf16
PER_NODE = 8
MEMORY = 80e9
LATENCY = 20e-6  # seconds a message, by tree
GPUS = (1, 2, 8, 16, 64, 256, 1024)
# Bytes a second of one GPU: within a node, and between nodes.
LINKS = {
    "NVLink 4 + NDR InfiniBand a GPU": (450e9, 50e9),
    "PCIe 5 + 100 Gb/s Ethernet a node": (50e9, 12.5e9 / PER_NODE),
}


@dataclass(frozen=True)
class Shape:
    """A Llama; sizes in numbers."""

    name: str
    hidden: int
    inner: int
    layers: int
    key_values: int
    vocabulary: int
    tied: bool = False

    @property
    def parameters(self) -> int:
        """Of the base."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.key_values
        layer = attention + 3 * self.hidden * self.inner
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * self.hidden

    @property
    def trained(self) -> int:
        """Of a LoRA of `RANK` on all linear layers."""
        ends = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + self.key_values)
        return self.layers * RANK * (ends + 3 * (self.hidden + self.inner))


SHAPES = (
    Shape("1B (Llama 3.2)", 2048, 8192, 16, 512, 128256, tied=True),
    Shape("8B (Llama 3.1)", 4096, 14336, 32, 1024, 128256),
    Shape("70B (Llama 3.1)", 8192, 28672, 80, 1024, 128256),
)


def sent(shape: Shape, strategy: str, gpus: int) -> tuple[float, float]:
    """Bytes that one GPU sends in an optimizer step: over all GPUs, and within its node alone.

    ddp: the adapter's float32 gradients, by ring all-reduce, once a step. fsdp: the same, and each
    frozen bf16 weight gathered for forward and again for backward, in every micro-batch, from the
    GPUs of the same node. zero3: gathered from all GPUs, the adapter too, whose gradients are
    reduce-scattered.
    """
    share = (gpus - 1) / gpus
    reduced = 2 * share * 4 * shape.trained
    gathered = MICRO_BATCHES * 2 * 2 * shape.parameters
    if strategy == "ddp":
        return reduced, 0.0
    if strategy == "fsdp":
        near = min(gpus, PER_NODE)
        return reduced, gathered * (near - 1) / near
    adapter = MICRO_BATCHES * 2 * share * 4 * shape.trained
    return share * gathered + adapter + share * 4 * shape.trained, 0.0


def weights(shape: Shape, strategy: str, gpus: int) -> float:
    """Bytes of weights, gradients and AdamW's moments on one GPU."""
    cut = {"ddp": 1, "fsdp": min(gpus, PER_NODE), "zero3": gpus}[strategy]
    adapter = 16 * shape.trained / (gpus if strategy == "zero3" else 1)
    layer = 0 if strategy == "ddp" else 2 * 2 * shape.parameters / shape.layers
    return 2 * shape.parameters / cut + adapter + layer


def seconds(shape: Shape, strategy: str, gpus: int, link: tuple[float, float]) -> float:
    """Of communication in a step, none of it hidden; between nodes the slower link decides."""
    if gpus == 1:
        return 0.0
    far, near = sent(shape, strategy, gpus)
    gathers = 0 if strategy == "ddp" else MICRO_BATCHES * 2 * shape.layers
    of = min(gpus, PER_NODE) if strategy == "fsdp" else gpus
    waits = LATENCY * (math.log2(gpus) + gathers * math.log2(of))
    return far / link[0 if gpus <= PER_NODE else 1] + near / link[0] + waits


def computing(shape: Shape) -> float:
    """Seconds of computation in a step: forward and the activations' gradients, 4 x parameters."""
    return 4 * shape.parameters * TOKENS / FLOPS


def main() -> None:
    """Print the tables."""
    for name, link in LINKS.items():
        print(f"\n{name}\n")
        print("| base | GPUs | computing | ddp | fsdp | zero3 | ddp / fsdp / zero3 | wins |")
        print("|---|---|---|---|---|---|---|---|")
        for shape in SHAPES:
            for gpus in GPUS:
                print(row(shape, gpus, link))


def row(shape: Shape, gpus: int, link: tuple[float, float]) -> str:
    """One line of a table."""
    work = computing(shape)
    cells, shares = [], {}
    for strategy in ("ddp", "fsdp", "zero3"):
        spent = seconds(shape, strategy, gpus, link)
        held = weights(shape, strategy, gpus)
        # A tenth stays free, and activations need their part.
        fits = held < 0.75 * MEMORY
        shares[strategy] = work / (work + spent) if fits else 0.0
        note = "" if fits else " (does not fit)"
        far, near = (volume / 1e9 for volume in sent(shape, strategy, gpus))
        volume = f"{far:.2f}" + (f" + {near:.1f} near" if near else "")
        cells.append(f"{volume} GB, {spent * 1e3:.0f} ms, {held / 1e9:.0f} GB held{note}")
    best = max(shares, key=lambda key: shares[key])
    wins = best if shares[best] else "none"
    said = " / ".join(f"{100 * shares[key]:.0f} %" for key in shares)
    return (
        f"| {shape.name} | {gpus} | {work * 1e3:.0f} ms | {' | '.join(cells)} | {said} | {wins} |"
    )


if __name__ == "__main__":
    main()
