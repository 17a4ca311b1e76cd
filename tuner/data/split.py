"""Which rows are held out: decided by their text, not by their position."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tuner.data.dialogue import Dialogue
from tuner.errors import DataError
from tuner.recipe.schema import DataSection


def fingerprint(dialogue: Dialogue) -> str:
    """Return the sha256 of a row's text, ignoring case and white space."""
    text = "\n".join(" ".join(part.casefold().split()) for part in dialogue.parts())
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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


Item = TypeVar("Item")


@dataclass(frozen=True)
class Split(Generic[Item]):
    """Two splits without a common prompt.

    Args:
        train: what is trained on.
        eval: what is held out.
        leaked: items of the eval file that were taken out because train has their prompt.
        copies: items of train whose prompt an earlier item has.
    """

    train: list[Item]
    eval: list[Item]
    leaked: int
    copies: int

    @property
    def facts(self) -> dict[str, Any]:
        """What the report says of the split."""
        return {"duplicates_in_train": self.copies, "eval_rows_also_in_train": self.leaked}


def split_by_prompt(
    train: list[Item],
    held: list[Item],
    mark: Callable[[Item], str],
    data: DataSection,
    seed: int,
) -> Split[Item]:
    """Hold out a share or a number of `train`, or make `held` free of the prompts of `train`.

    Args:
        train: items of the training files.
        held: items of the eval file; empty where `data.eval` is not a file.
        mark: fingerprint of an item's prompt.
        data: the recipe's data section.
        seed: chooses what is held out.

    Raises:
        DataError: a split would be empty.
    """
    marks = [mark(item) for item in train]
    leaked = 0
    if isinstance(data.eval, str):
        known = set(marks)
        kept = [item for item in held if mark(item) not in known]
        leaked = len(held) - len(kept)
        if not kept:
            raise DataError(
                "the eval split is empty",
                f"all {leaked} prompts of {data.eval} are also in the training rows",
                "hold out prompts that are not trained on, or set data.eval to a fraction",
            )
        held = kept
    elif data.eval:
        chosen = held_out(marks, data.eval, seed)
        both = list(zip(train, marks, strict=True))
        held = [item for item, each in both if each in chosen]
        train = [item for item, each in both if each not in chosen]
        marks = [each for each in marks if each not in chosen]
    return Split(train, held, leaked, len(marks) - len(set(marks)))
