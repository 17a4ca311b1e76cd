"""Which settings fit a device, and what would help where none do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tuner.plan.memory import activations
from tuner.plan.memory.estimate import Workload, estimate

if TYPE_CHECKING:
    from tuner.methods.method import Method
    from tuner.model.base import Base
    from tuner.model.layers import Skeleton
    from tuner.recipe.schema import Recipe

GIB = 1 << 30
# Share of its device's memory that a run may take: the estimate may be off by a tenth, and main
# memory has other users.
SHARE = {"cpu": 0.7, "cuda": 0.9}
# Memory of common GPUs in GiB: RTX 4080 and A4000; RTX 4090, A10 and L4; A100; A6000 and L40S; A100
# and H100; H200.
GPUS = (16, 24, 40, 48, 80, 141)
_LENGTHS = (8192, 4096, 2048, 1024, 512, 256, 128)


@dataclass(frozen=True)
class Choice:
    """Rows per forward pass, whether activations are recomputed, and the bytes that takes."""

    micro_batch_size: int
    checkpointing: bool
    total: int

    def __str__(self) -> str:
        rows = f"{self.micro_batch_size} rows" if self.micro_batch_size > 1 else "1 row"
        again = ", activations recomputed" if self.checkpointing else ""
        return f"{rows} per forward pass{again} ({self.total / GIB:.1f} GiB)"


def budget(device: str, available: int) -> int:
    """Return the bytes of `available` that a run may take."""
    return int(available * SHARE[device])


def fit(shape: Workload, batch_size: int, limit: int, checkpointing: bool) -> int:
    """Return the largest micro-batch that divides `batch_size` and fits `limit` bytes, or 0."""
    for size in range(batch_size, 0, -1):
        if batch_size % size == 0 and estimate(shape, size, checkpointing).total <= limit:
            return size
    return 0


def choose(shape: Workload, limit: int, recomputes: Sequence[bool]) -> Choice | None:
    """Return the fastest setting within `limit` bytes: nothing recomputed, else most rows."""
    for checkpointing in recomputes:
        if size := fit(shape, shape.rows.batch, limit, checkpointing):
            return Choice(size, checkpointing, estimate(shape, size, checkpointing).total)
    return None


def remedies(
    shape: Workload, quantized: Workload | None, limit: int, recomputes: Sequence[bool]
) -> str:
    """Return which keys would make a run fit that does not, cheapest first.

    Args:
        shape: the run.
        quantized: the same on a base in 4 bits; None where the method does not support one.
        limit: bytes.
        recomputes: whether activations may be recomputed: False, True or both.
    """
    found = list(_remedies(shape, quantized, limit, recomputes))
    if found:
        return "; or ".join(found)
    return f"use a smaller model.base, or {_on_which_gpu(shape, quantized, recomputes)}"


def _on_which_gpu(shape: Workload, quantized: Workload | None, recomputes: Sequence[bool]) -> str:
    """Return what size of GPU is enough, in a GPU's types whatever device was planned for."""
    said = []
    for candidate in filter(None, (shape, quantized)):
        there = _on_gpu(candidate)
        need = min(estimate(there, 1, again).total for again in recomputes)
        quantize = f"with model.quantize: {there.stored}"
        which = "in bfloat16" if there.stored == "bfloat16" else quantize
        said.append(f"{math.ceil(need / SHARE['cuda'] / GIB)} GiB {which}")
    return f"a GPU with at least {', or '.join(said)} (tuner plan --for 80GiB plans for one)"


def _remedies(
    shape: Workload, quantized: Workload | None, limit: int, recomputes: Sequence[bool]
) -> Iterator[str]:
    if quantized is not None and (choice := choose(quantized, limit, recomputes)):
        yield f"model.quantize: nf4 fits: {choice}"
    for prefix, candidate in (("", shape), ("model.quantize: nf4 and ", quantized)):
        if candidate is None or (prefix and choose(candidate, limit, recomputes)):
            continue
        for length in _LENGTHS:
            if length >= max(candidate.rows.lengths, default=0):
                continue
            if choice := choose(_cut(candidate, length), limit, recomputes):
                yield f"{prefix}data.max_length: {length} fits: {choice}"
                break


def _cut(shape: Workload, length: int) -> Workload:
    lengths = [min(value, length) for value in shape.rows.lengths]
    targets = [min(pair) for pair in zip(shape.rows.targets, lengths, strict=True)]
    return replace(shape, rows=replace(shape.rows, lengths=lengths, targets=targets))


def in_4_bits(
    shape: Workload,
    recipe: Recipe,
    method: Method,
    base: Base,
    skeleton: Skeleton,
    chosen: list[str],
) -> Workload | None:
    """Return the same run on a base in nf4; None where it is quantized or cannot be."""
    if recipe.model.quantize != "none" or "nf4" not in method.quantized:
        return None
    model = recipe.model.model_copy(update={"quantize": "nf4"})
    kept = activations.kept(
        recipe.model_copy(update={"model": model}), method, base.config, skeleton.linears, chosen
    )
    return replace(shape, stored="nf4", full_precision=skeleton.unquantized, kept=kept)


def on_gpus(
    shape: Workload, quantized: Workload | None, recomputes: Sequence[bool]
) -> dict[str, str]:
    """Return what fits into GPUs of common sizes, and with which settings, in bfloat16."""
    by_setting = dict[str, list[int]]()
    for size in GPUS:
        limit = budget("cuda", size * GIB)
        choice = choose(_on_gpu(shape), limit, recomputes)
        nf4 = choose(_on_gpu(quantized), limit, recomputes) if quantized and not choice else None
        said = str(choice) if choice else f"model.quantize: nf4, {nf4}" if nf4 else "does not fit"
        by_setting.setdefault(said, []).append(size)
    return {
        " to ".join(dict.fromkeys(f"{size} GiB" for size in (sizes[0], sizes[-1]))): said
        for said, sizes in by_setting.items()
    }


def _on_gpu(shape: Workload) -> Workload:
    stored = shape.stored if shape.stored in ("nf4", "int8") else "bfloat16"
    return replace(shape, device="cuda", dtype="bfloat16", stored=stored, mapped=0)
