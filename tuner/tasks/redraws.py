"""Dynamic sampling: answers to a prompt whose rewards are all equal are sampled again.

Such a group has no advantages, and nothing is learned from it (DAPO, Yu et al. 2025, takes other
prompts instead). What is sampled depends on the weights and the step's seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tuner.rewards.constant import equal
from tuner.tasks import rollouts

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.rewards.response import Response, Scores

# Returns lists with one entry per answer, the first of token ids; or None for one it does not have.
Draw = Callable[[Sequence[int]], Sequence[Any]]


class Redraws:
    """Samples the answers of a step, and scores them.

    Args:
        plan: has the prompts, and how often to sample again.
        judge: scores all answers of a step together.

    Attributes:
        count: groups that were sampled again in the current step, each time counted.
    """

    def __init__(self, plan: Plan, judge: Callable[[Sequence[Response]], Scores]) -> None:
        self.plan, self.judge = plan, judge
        self.ends = rollouts.stops(plan)
        self.limit = plan.recipe.grpo.redraws if plan.recipe.grpo is not None else 0
        self.count = 0
        self._scored: tuple[list[Response], Scores] | None = None

    def sample(self, draw: Draw, numbers: Sequence[str]) -> tuple[Any, ...]:
        """Return what `draw` returns for all answers of a step, equal groups drawn again.

        Args:
            draw: samples the answers at these places of the step.
            numbers: of the prompts, one per answer; those of a group follow each other.
        """
        self.count, self._scored = 0, None
        drawn = [part and [*part] for part in draw(range(len(numbers)))]
        for _ in range(self.limit):
            answers = self.answers(numbers, drawn[0])
            places = self._equal(answers, self.score(answers).total)
            if not places:
                break
            self.count += len(places) // self.plan.rlhf.copies
            for part, new in zip(drawn, draw(places), strict=True):
                for place, item in zip(places, new or (), strict=bool(new)):
                    part[place] = item
        return tuple(drawn)

    def answers(self, numbers: Sequence[str], ids: Sequence[Sequence[int]]) -> list[Response]:
        """Return sampled token ids as answers to the prompts with these numbers."""
        rows = self.plan.prepared.train
        return [
            rollouts.response(self.plan, rows[int(number)], each, self.ends)
            for number, each in zip(numbers, ids, strict=True)
        ]

    def score(self, answers: list[Response]) -> Scores:
        """Return the scores of the answers of a step; those of the last redraw are scored once."""
        if not self.limit or self._scored is None or self._scored[0] != answers:
            self._scored = answers, self.judge(answers)
        return self._scored[1]

    def _equal(self, answers: Sequence[Response], scores: Sequence[float]) -> list[int]:
        """Return the places of the answers whose group has equal rewards."""
        rewards, size = rollouts.priced(self.plan, answers, scores), self.plan.rlhf.copies
        groups = [range(first, first + size) for first in range(0, len(rewards), size)]
        return [
            place
            for group in groups
            if equal(min(rewards[n] for n in group), max(rewards[n] for n in group))
            for place in group
        ]
