"""Example: a training row as token ids, and which of them are targets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One training example.

    Args:
        row: file name and line, for messages.
        input_ids: token ids; of an encoder-decoder or a classifier, what it reads.
        supervised: token i is a target of the loss where True; position 0 never is.
        target: token ids that an encoder-decoder writes.
        label: class of the text, for a classifier.
        goals: of a head whose outputs are learned one by one, what each should be: 0 or 1 for a
            label of several; not numbers in a row that adds nothing to the loss.
        task: which of the recipe's data sets it comes from.
        weights: of the tokens in the loss, each above 0 and up to 1; empty: 1 each.
    """

    row: str
    input_ids: list[int]
    supervised: list[bool]
    target: tuple[int, ...] = ()
    label: int | None = None
    task: int = 0
    weights: tuple[float, ...] = ()
    goals: tuple[float, ...] = ()

    @property
    def weight(self) -> float:
        """By what the loss is divided: the weights of its terms, added up."""
        if not self.weights:
            return self.num_targets
        return sum(w for w, learned in zip(self.weights, self.supervised, strict=True) if learned)

    @property
    def num_targets(self) -> int:
        """Terms of the loss."""
        classed = self.label is not None or any(goal == goal for goal in self.goals)
        return sum(self.supervised) + len(self.target) + classed

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads and writes."""
        return len(self.input_ids) + len(self.target)

    def blank(self) -> Example:
        """Return a short row of the same kind that adds nothing to the loss."""
        short = min(2, len(self.input_ids))
        return replace(
            self,
            input_ids=self.input_ids[:short],
            supervised=[False] * short,
            target=(IGNORED,) if self.target else (),
            label=None,
            goals=(math.nan,) * len(self.goals),
            weights=(),
        )
