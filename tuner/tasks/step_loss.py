"""The loss of a step: the sum of what a loss function returns over its micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tuner.data.order import micro_batches
from tuner.machine import ranks

if TYPE_CHECKING:
    import torch

    from tuner.data.order import Stream
    from tuner.tasks.leg import Leg


class StepLoss:
    """A loss function that adds up what it returns over the micro-batches of a step.

    Args:
        leg: the steps.
        stream: their rows.
        function: of (outputs, labels, num_items_in_batch).
    """

    def __init__(self, leg: Leg, stream: Stream, function: Callable[..., torch.Tensor]) -> None:
        self.leg = leg
        self.stream = stream
        self.function = function
        self.penalty = leg.plan.method.hooks.penalty(leg.trained.model, leg.plan.recipe.method)
        self.parts: list[torch.Tensor] = []

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the loss of a micro-batch, with its share of the method's penalty."""
        loss = self.function(outputs, labels, num_items_in_batch=num_items_in_batch)
        # A copy: the Trainer multiplies the loss by the number of processes, in place.
        self.parts.append(loss.detach().clone())
        if self.penalty is not None:
            # Once per step, whatever the number of its micro-batches.
            loss = loss + self.penalty() / self.micro_batches()
        return loss

    def micro_batches(self) -> int:
        """Return the micro-batches of the current step; the last of a stage may have fewer."""
        plan, rows = self.leg.plan, self.stream.step(self.leg.step.number - self.leg.first)
        return micro_batches(len(rows), plan.micro_batch_size, plan.devices.world)

    def total(self) -> float:
        """Return the loss of the step over all processes, and start the next one."""
        (total,) = ranks.total([float(sum(self.parts))])
        self.parts.clear()
        return total
