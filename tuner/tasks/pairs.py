"""Rows of preferences for trl's trainers: which are in a step, and their token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.data.tokens.order import Stream
from tuner.machine import ranks
from tuner.tasks.callbacks import Figures, TrlCallback

if TYPE_CHECKING:
    from datasets import Dataset

    from tuner.data.preferences import Ranking
    from tuner.tasks.leg import Leg

# Prompt, better answer, worse answer.
Parts = tuple[list[int], list[int], list[int]]


class Pairs:
    """The rows of a leg.

    Args:
        leg: the steps.
        grouped: put rows of similar length of a step into the same forward pass.
    """

    def __init__(self, leg: Leg, grouped: bool = True) -> None:
        plan = leg.plan
        batch, rows = plan.recipe.train.batch_size, plan.prepared.train
        place, end = leg.first * batch, leg.stage.stop * batch
        self.leg, self.rows = leg, rows
        self.stream = Stream(rows, plan.recipe.run.seed, place, end, batch, grouped=grouped)

    def callback(self, figures: Figures, shown: Sequence[str]) -> TrlCallback:
        """Return the callback between the trainer and the run."""
        return TrlCallback(self.leg, self.stream, figures, shown)

    def dataset(self, columns: Sequence[str] = ("prompt", "chosen", "rejected")) -> Dataset:
        """Return the places of the rows; trl requires texts and tokenizes them, and nothing reads
        the result."""
        from datasets import Dataset

        texts = {key: ["-"] * len(self.stream) for key in columns}
        return Dataset.from_dict({**texts, "row": self.stream.places})

    def chosen(self, items: Sequence[Mapping[str, Any]]) -> list[Ranking]:
        """Return the rows of items of the data set."""
        return [self.rows[each["row"]] for each in items]

    def parts(self, items: Sequence[Mapping[str, Any]]) -> list[Parts]:
        """Return the token ids of items of the data set."""
        found = []
        for row in self.chosen(items):
            start, (better, worse) = len(row.prompt_ids), row.answers
            found.append((row.prompt_ids, better[start:], worse[start:]))
        return found

    @property
    def step(self) -> list[Ranking]:
        """The rows of the current step, over all processes."""
        first = (self.leg.step.number - self.leg.first) * self.stream.batch_size
        places = self.stream.places[first : first + self.stream.batch_size]
        return [self.rows[place] for place in places]

    @property
    def tokens(self) -> int:
        """Tokens that the current step reads."""
        return sum(row.num_tokens for row in self.step)


class TokenShares(TrainerCallback):
    """Makes the mean over a step's tokens of trl's means over those of a forward pass.

    trl adds the mean cross-entropy of a micro-batch to its loss: so a step's would depend on which
    rows share a forward pass.

    Args:
        pairs: the rows.
        weigh: called before each forward pass with what its mean counts, 1 on average.
    """

    def __init__(self, pairs: Pairs, weigh: Callable[[float], None]) -> None:
        self.pairs, self.weigh = pairs, weigh
        self.shares: list[float] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the tokens of the better answers."""
        size, here = self.pairs.leg.plan.micro_batch_size, ranks.place()
        rows = self.pairs.step
        counts = [
            sum(len(row.answers[0]) - len(row.prompt_ids) for row in rows[first : first + size])
            for first in range(0, len(rows), size)
        ]
        self.shares = [count * len(counts) / sum(counts) for count in counts]
        # Micro-batches are dealt out in turn.
        self.shares = self.shares[here.rank :: here.world][::-1]
        self.weigh(self.shares.pop())

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on to the next forward pass."""
        self.weigh(self.shares.pop())
