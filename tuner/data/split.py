"""Which rows are held out: decided by their text, not by their position."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import SourceSection, named


def held_out(fingerprints: Sequence[str], amount: int | float, seed: int) -> set[str]:
    """Choose the fingerprints of the rows to hold out.

    The choice depends on the seed and on the rows' texts, not on their order; equal texts are
    always on the same side. `amount` is a share below 1 or a number of rows.

    Raises:
        DataError: nothing would be left to train on.
    """
    copies = Counter(fingerprints)
    wanted = amount if isinstance(amount, int) else max(1, round(amount * len(fingerprints)))
    chosen: set[str] = set()
    count = 0
    for each in sorted(copies, key=lambda text: hashlib.sha256(f"{seed}:{text}".encode()).digest()):
        if count + copies[each] <= wanted:
            chosen.add(each)
            count += copies[each]
    if len(chosen) == len(copies):
        raise DataError(
            "the train split is empty",
            f"data.eval: {amount} holds out all {len(fingerprints)} rows",
            "hold out fewer rows, or set data.eval: 0",
        )
    if not chosen:
        raise DataError(
            "the eval split is empty",
            f"the rows are copies of {len(copies)} texts, too few to hold out {wanted} rows",
            "add different rows, or set data.eval: 0",
        )
    return chosen


class Marked(Protocol):
    """What can be held out."""

    @property
    def mark(self) -> str:
        """Fingerprint of what may be in one split only: the row, or its prompt."""


Item = TypeVar("Item", bound=Marked)


@dataclass(frozen=True)
class Split(Generic[Item]):
    """Two splits without a common mark.

    Args:
        train: what is trained on.
        eval: what is held out.
        facts: what the report says of copies in train and across the splits.
    """

    train: list[Item]
    eval: list[Item]
    facts: dict[str, Any]


def split(
    train: list[Item], held: list[Item], data: DataSection, seed: int, unit: str
) -> Split[Item]:
    """Hold out a share or a number of `train`, or make `held` free of the marks of `train`.

    Args:
        train: items of the training files.
        held: items of the eval file; empty where `data.eval` is not a file.
        data: the recipe's data section.
        seed: chooses what is held out.
        unit: what an item is called in messages.

    Raises:
        DataError: a split would be empty.
    """
    marks = [item.mark for item in train]
    leaked = 0
    if isinstance(data.eval, str | SourceSection):
        known = set(marks)
        kept = [item for item in held if item.mark not in known]
        leaked = len(held) - len(kept)
        if not kept:
            raise DataError(
                "the eval split is empty",
                f"all {leaked} {unit} of {named(data.eval)} are also in the training rows",
                f"hold out {unit} that are not trained on, or set data.eval to a fraction",
            )
        held = kept
    elif data.eval:
        chosen = held_out(marks, data.eval, seed)
        both = list(zip(train, marks, strict=True))
        held = [item for item, mark in both if mark in chosen]
        train = [item for item, mark in both if mark not in chosen]
        marks = [mark for mark in marks if mark not in chosen]
    copies = len(marks) - len(set(marks))
    return Split(train, held, {"duplicates_in_train": copies, "eval_rows_also_in_train": leaked})
