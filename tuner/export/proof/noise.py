"""How far logits of the same weights may differ: the difference between two passes.

A process that loads the same files computes the same, up to the order of its sums: another batch or
another number of threads changes that order. Both are measured on the model that was written; what
rounding of the logits in the stored type amounts to is always allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tuner.export.proof import measure
from tuner.record.proof_limits import NOISE_FACTOR, NOISE_ROUNDINGS, UNIT

# Rows that are read twice.
ROWS = 2


@dataclass(frozen=True)
class ReadingDistance:
    """How far two readings are apart.

    Attributes:
        mean: mean difference of a logit.
        kl: mean KL divergence per position, in nats.
    """

    mean: float
    kl: float

    def within(self, limit: ReadingDistance) -> bool:
        """Return whether both figures are within their limits; a NaN is not."""
        return self.mean <= limit.mean and self.kl <= limit.kl


def apart(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> ReadingDistance:
    """Return how far logits are from others, over all positions of all rows.

    Args:
        found: (positions, entries) or (entries,) of each row.
        wanted: likewise.
    """
    mean = kl = 0.0
    entries = places = 0
    # Row by row: in float64, those of a large vocabulary are the largest thing here.
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape or not bool(torch.isfinite(one).all()):
            return ReadingDistance(math.inf, math.inf)
        rows = other.reshape(-1, other.shape[-1])
        mean += float((one - other).abs().sum(dtype=torch.float64))
        kl += len(rows) * measure.divergence(rows, one.reshape(rows.shape))
        entries, places = entries + one.numel(), places + len(rows)
    return ReadingDistance(mean / max(1, entries), kl / max(1, places))


@torch.no_grad()
def measured(model: Any, rows: Sequence[dict[str, list[int]]]) -> ReadingDistance:
    """Return how far a model is from itself, with another number of threads, and in a batch of two.

    Args:
        model: in evaluation mode.
        rows: token ids by the name of the argument.
    """
    from tuner.export.proof.fresh_process import logits
    from tuner.export.proof.measure import batch_of

    few = list(rows[:ROWS])
    once = logits(model, few)
    with _other_threads():
        found = [apart(logits(model, few), once)]
    if getattr(model, "takes_batches", True):
        twice = [model(**batch_of(row, 2, model.device)).logits[0].float().cpu() for row in few]
        found.append(apart(twice, once))
    return ReadingDistance(max(each.mean for each in found), max(each.kl for each in found))


def limit(noise: ReadingDistance, wanted: Sequence[torch.Tensor], dtype: str) -> ReadingDistance:
    """Return how far a reloaded model may be from the one that was written.

    Args:
        noise: how far that is from itself.
        wanted: its logits.
        dtype: of the stored weights.
    """
    entries = max(1, sum(row.numel() for row in wanted))
    size = sum(float(row.abs().sum(dtype=torch.float64)) for row in wanted) / entries
    square = sum(float(row.pow(2).sum(dtype=torch.float64)) for row in wanted) / entries
    unit = NOISE_ROUNDINGS[dtype] * UNIT[dtype]
    # A change of every logit by its share e moves the KL by e^2 / 2 times their mean square.
    return ReadingDistance(
        max(NOISE_FACTOR * noise.mean, unit * size),
        max(NOISE_FACTOR * noise.kl, 0.5 * unit**2 * square),
    )


@contextmanager
def _other_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        yield
    finally:
        torch.set_num_threads(before)
