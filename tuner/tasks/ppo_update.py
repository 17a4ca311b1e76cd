"""The updates of a PPO step: passes over its answers, in micro-batches with the same sum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from tuner.data.tokens.collate import placed
from tuner.data.tokens.order import Stream
from tuner.machine import ranks
from tuner.rewards.response import Response, Scores
from tuner.tasks import gradients, precision, rollouts
from tuner.tasks.ppo_math import kl_k3, policy_losses, value_losses
from tuner.tasks.sft import token_loss

if TYPE_CHECKING:
    from tuner.tasks.leg import Leg

Row = TypeVar("Row")


@dataclass
class Rollout:
    """The answers of a step and what is known about them before the first update.

    Attributes:
        answers: the sampled answers.
        lengths: tokens of each answer.
        old: (tokens,) log-probabilities when they were sampled.
        reference: (tokens,) those of the reference policy.
        values: (tokens,) predictions of the critic.
        entropy: (tokens,).
        scores: from the rewards.
        advantages, returns: (tokens,), the training targets.
    """

    answers: list[Response]
    lengths: list[int]
    old: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor
    entropy: torch.Tensor
    scores: Scores
    advantages: torch.Tensor
    returns: torch.Tensor

    def places(self, rows: Sequence[int]) -> torch.Tensor:
        """Return where the tokens of some answers are, in the order of these answers."""
        starts = list(itertools.accumulate(self.lengths, initial=0))
        return torch.cat([torch.arange(starts[row], starts[row + 1]) for row in rows])


class Updates:
    """The updates from a rollout.

    Args:
        leg: has the plan, the policy with its critic, and the optimizer.
    """

    def __init__(self, leg: Leg) -> None:
        self.leg, self.plan, self.options = leg, leg.plan, leg.plan.ppo
        self.model, self.optimizer = leg.trained.model, leg.optimizer
        self.here = ranks.place()

    def learn(self, rollout: Rollout, number: int) -> dict[str, float]:
        """Make the updates of step `number`, from 0, and return their metrics."""
        options = self.options
        rows, size = len(rollout.answers), len(rollout.answers) // options.minibatches
        sums = dict.fromkeys(self._figures(), 0.0)
        grad_norm, updates = 0.0, 0
        for turn in range(options.epochs):
            order = np.random.default_rng([self.plan.step_seed(number), turn]).permutation(rows)
            for start in range(0, rows, size):
                chosen = [int(row) for row in order[start : start + size]]
                found = self._update(rollout, chosen, number, updates)
                grad_norm = found.pop("grad_norm")
                sums = {key: sums[key] + found[key] for key in sums}
                updates += 1
                if options.kl_stop is not None and found["step_kl"] > options.kl_stop:
                    break
            else:
                continue
            break
        return {
            **{key: value / updates for key, value in sums.items()},
            "grad_norm": grad_norm,
            "updates": updates,
        }

    def _figures(self) -> list[str]:
        """Return the metrics of every update besides the gradient norm."""
        ptx = ["ptx_loss"] if self.options.ptx_coefficient else []
        return ["policy_loss", "value_loss", "clip_share", "step_kl", *ptx]

    def _update(
        self, rollout: Rollout, rows: Sequence[int], number: int, update: int
    ) -> dict[str, float]:
        """Make one optimizer step on some of the answers, in micro-batches with the same sum."""
        options, tokens = self.options, sum(rollout.lengths[row] for row in rows)
        sums = dict.fromkeys(self._figures(), 0.0)
        for part in self._own(rows):
            here = rollout.places(part).to(rollout.old.device)
            answers = [rollout.answers[row] for row in part]
            new, _, hidden = rollouts.token_scores(self.plan, self.model, answers)
            old = rollout.old[here]
            losses, cut = policy_losses(new, old, rollout.advantages[here], options.clip)
            values = self.model.value_head.values(answers, hidden)
            errors = value_losses(
                values, rollout.values[here], rollout.returns[here], options.value_clip
            )
            loss = (losses.sum() + options.value_coefficient * errors.sum()) / tokens
            loss.backward()
            with torch.no_grad():
                sums["policy_loss"] += float(losses.sum()) / tokens
                sums["value_loss"] += float(errors.sum()) / tokens
                sums["clip_share"] += float(cut.sum()) / tokens
                # Sampled from the old policy: KL(old || new).
                sums["step_kl"] += float(kl_k3(old, new).sum()) / tokens
        if options.ptx_coefficient:
            turns = options.epochs * options.minibatches
            sums["ptx_loss"] = self._ptx(len(rows), number * turns + update)
        weights = [weight for _, weight in self.leg.parameters]
        present = [float(weight.grad is not None) for weight in weights]
        found = self.leg.total([*sums.values(), *present])
        sums = dict(zip(sums, found, strict=False))
        ranks.sum_gradients(weights, found[len(sums) :])
        whole = sums["policy_loss"] + sums["value_loss"]
        norm = gradients.clip(self.leg, [rollout.answers[row] for row in rows], whole)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**sums, "grad_norm": norm}

    def _ptx(self, count: int, update: int) -> float:
        """Add the gradient of the language modelling loss on supervised rows.

        Args:
            count: rows.
            update: number of the update within the run; determines the rows.
        """
        rows, coefficient = self.plan.ptx, self.options.ptx_coefficient
        start = update * count
        seed = self.plan.recipe.run.seed
        chosen = Stream(rows, seed, start, start + count, count, grouped=True).step(0)
        targets = sum(row.weight for row in chosen)
        total = 0.0
        for part in self._own(chosen):
            batch = placed(self.plan.collate(part), self.model.device)
            labels = batch.pop("labels")
            weights = batch.pop("weights", None)
            with precision.as_trained(self.plan):
                outputs = self.model(**batch)
            loss = token_loss(outputs, labels, targets, weights)
            (coefficient * loss).backward()
            total += float(loss.detach())
        return total

    def _parts(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        size = self.plan.micro_batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _own(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """Return the micro-batches whose gradients this process computes."""
        return self._parts(rows)[self.here.rank :: self.here.world]

    def spread(
        self,
        answers: list[Response],
        see: Callable[[Sequence[Response]], Sequence[torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        """Return the results of `see` on all micro-batches, (tokens,), each seen by one process."""
        seen = ranks.spread(
            self._parts(answers),
            lambda own, _: [[tensor.cpu() for tensor in see(part)] for part in own],
            lambda done, _: None,
        )
        return tuple(torch.cat(each).to(self.model.device) for each in zip(*seen, strict=True))
