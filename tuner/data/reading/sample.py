"""Drawing rows of a file by seed, label by label, in one pass and in little memory."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tuner.data.reading.read import Row
from tuner.data.split import MOST_LABELS, shares

# Files and labels from which rows are drawn in proportion; without a label: None.
Kind = tuple[int, str | None]


class Sample:
    """Draws a number of rows from files, in proportion to their rows of each label.

    Which rows depends on the seed and on their contents, not on their places: files whose rows
    belong together line by line are drawn from independently.

    Args:
        most: how many.
        seed: of the draw.
    """

    def __init__(self, most: int, seed: int) -> None:
        self._most, self._seed = most, seed
        self._counts: Counter[Kind] = Counter()
        self._kept: dict[Kind, list[tuple[int, int, Row]]] = {}
        self._unlabelled: set[int] = set()
        self._read = 0

    def add(self, row: Row, label: str | None, key: Any) -> None:
        """Add a row that may be drawn; rows with one key are drawn together, as far as they fit."""
        self._read += 1
        kind = row.source, None if row.source in self._unlabelled else label
        if kind not in self._kept and sum(one == row.source for one, _ in self._kept) > MOST_LABELS:
            self._unlabel(row.source)
            kind = row.source, None
        text = f"{self._seed}:{json.dumps(key, sort_keys=True, default=str)}"
        turn = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        self._counts[kind] += 1
        self._keep(kind, (-turn, -self._read, row))

    def rows(self) -> list[Row]:
        """Return the rows drawn, in the order in which they were added."""
        quotas = shares(self._counts, self._most)
        drawn = [
            each
            for kind, kept in self._kept.items()
            for each in heapq.nlargest(quotas[kind], kept, key=_turn)
        ]
        return [row for *_, row in sorted(drawn, key=lambda each: -each[1])]

    def _keep(self, kind: Kind, item: tuple[int, int, Row]) -> None:
        """Keep the first ones by turn."""
        kept = self._kept.setdefault(kind, [])
        if len(kept) < self._most:
            heapq.heappush(kept, item)
        else:
            heapq.heappushpop(kept, item)

    def _unlabel(self, source: int) -> None:
        """Take texts that are too many for labels as none."""
        self._unlabelled.add(source)
        for kind in [kind for kind in self._kept if kind[0] == source]:
            count, kept = self._counts.pop(kind), self._kept.pop(kind)
            self._counts[source, None] += count
            for item in kept:
                self._keep((source, None), item)


def _turn(item: tuple[int, int, Row]) -> tuple[int, int]:
    return item[:2]


def first_version(rows: Iterable[Row], most: int, seed: int) -> tuple[list[Row], int]:
    """Return `most` rows, in their order, and how many there are; labels do not count.

    This is how earlier versions drew the rows of a source.
    """
    count = 0

    def marked() -> Iterator[tuple[bytes, int, Row]]:
        nonlocal count
        for count, row in enumerate(rows, 1):
            text = f"{seed}:{json.dumps(row.values, sort_keys=True, default=str)}"
            yield hashlib.sha256(text.encode()).digest(), count, row

    chosen = heapq.nsmallest(most, marked(), key=lambda each: each[:2])
    return [row for _, _, row in sorted(chosen, key=lambda each: each[1])], count
