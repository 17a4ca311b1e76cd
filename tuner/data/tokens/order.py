"""The order of the rows, and which process gets which of them.

The order is a pure function of seed and epoch: nothing about it has to be saved to resume a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tuner.data.tokens.example import Example


def position(index: int, count: int, seed: int) -> int:
    """Return the row at `index` of an endless series of shuffled epochs over `count` rows."""
    epoch, place = divmod(index, count)
    return int(_permutation(count, seed, epoch)[place])


def order(count: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Return the rows at `start` to `stop` of this endless series, (stop - start,)."""
    first = start // count
    epochs = [_permutation(count, seed, epoch) for epoch in range(first, -(-stop // count))]
    rows = np.concatenate(epochs) if epochs else np.zeros(0, dtype=np.int64)
    return rows[start - first * count : stop - first * count]


_permutations: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    key = (count, seed, epoch)
    if key not in _permutations:
        _permutations.clear()
        _permutations[key] = np.random.default_rng([seed, epoch]).permutation(count)
    return _permutations[key]


class Stream:
    """Rows `start` to `stop` of the training order, as the Trainer's data set.

    Args:
        examples: the training rows.
        seed: of the order.
        start: first place in the order.
        stop: one past the last place.
        batch_size: rows per optimizer step.
        grouped: within each step, put rows of similar length together, so that padded
            micro-batches waste little. The update is the same: a step sums over its rows.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        seed: int,
        start: int,
        stop: int,
        batch_size: int,
        grouped: bool,
    ) -> None:
        self.examples = examples
        self.start = start
        places: list[int] = order(len(examples), seed, start, stop).tolist()
        if grouped:
            places = [
                place
                for first in range(0, len(places), batch_size)
                for place in sorted(
                    places[first : first + batch_size],
                    key=lambda row: len(examples[row].input_ids),
                )
            ]
        self.places = places
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Example:
        return self.examples[self.places[index]]

    def step(self, number: int) -> list[Example]:
        """Return the rows of the `number`-th optimizer step of this stream, from 0."""
        first = number * self.batch_size
        return [self.examples[place] for place in self.places[first : first + self.batch_size]]

    def epochs(self, number: int) -> float:
        """Return the epochs that are over after the `number`-th step of this stream, from 0."""
        done = min((number + 1) * self.batch_size, len(self))
        return (self.start + done) / len(self.examples)


class RankStream:
    """A stream's rows, shared out between several processes, as the Trainer's data set.

    accelerate deals out micro-batches in turn, number n to rank n modulo the world. So each step is
    cut into as many micro-batches, of nearly equal numbers of rows, as whole rounds need, and each
    is filled up with rows that add nothing to the loss. Which rank sees which row in which step
    follows from the stream, `micro_batch_size` and `world` alone.

    Args:
        stream: the rows of all processes.
        micro_batch_size: rows per forward pass.
        world: how many processes.
    """

    def __init__(self, stream: Stream, micro_batch_size: int, world: int) -> None:
        self.stream = stream
        self.slots: list[int | None] = []
        for first in range(0, len(stream), stream.batch_size):
            rows = min(stream.batch_size, len(stream) - first)
            parts = micro_batches(rows, micro_batch_size, world)
            for part in range(parts):
                own = range(first + part * rows // parts, first + (part + 1) * rows // parts)
                self.slots += [*own, *[None] * (micro_batch_size - len(own))]

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, index: int) -> Example:
        slot = self.slots[index]
        return self.stream[slot] if slot is not None else self.stream[0].blank()


def micro_batches(rows: int, micro_batch_size: int, world: int) -> int:
    """Return the micro-batches of a step over all processes: the same number for each."""
    return -(-rows // (micro_batch_size * world)) * world
