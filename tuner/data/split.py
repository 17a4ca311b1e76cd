"""Which rows are held out: decided by what they say, not by where they stand."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from tuner.data.dialogue import Dialogue
from tuner.errors import DataError


def fingerprint(dialogue: Dialogue) -> str:
    """sha256 of what a row says, but for case and white space."""
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
