"""Proximal policy optimisation of a language model against a reward.

After Schulman et al. 2017 (PPO) and 2016 (GAE), Ziegler et al. 2019 (adaptive KL), Stiennon et al.
2020 and Ouyang et al. 2022 (RLHF, PPO-ptx), and "The N Implementation Details of RLHF with PPO"
(Huang et al. 2024). A step samples answers, scores them, and makes a few passes of updates on them.

Tokens of all answers of a step are in one row, (tokens,), without padding; `lengths` has the number
of tokens of each answer. So nothing can be computed over padding, and there is no token after the
stop token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.tokens.order import position
from tuner.machine import ranks
from tuner.rewards.response import Response, Scores
from tuner.tasks import rollouts, step_end
from tuner.tasks.collapse import Collapse
from tuner.tasks.ppo_math import (
    ESTIMATORS,
    RunningScale,
    adapt,
    advantages,
    kl_k3,
    token_rewards,
    whiten,
)
from tuner.tasks.ppo_update import Rollout, Updates

if TYPE_CHECKING:
    from tuner.tasks.leg import Leg


class Ppo:
    """The steps of a leg."""

    def __init__(self, leg: Leg) -> None:
        plan, task_state = leg.plan, leg.step.task_state
        self.leg = replace(leg, task_state=self.state)
        self.plan, self.options = plan, plan.ppo
        self.model, self.judge = leg.trained.model, leg.trained.judge
        self.updates = Updates(leg)
        self.coefficient = float(task_state.get("coefficient", plan.beta))
        self.scale = RunningScale(*task_state.get("scale", ()))
        self.collapse = Collapse(leg)

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on besides weights and optimizer."""
        return {
            "coefficient": self.coefficient,
            "scale": [self.scale.count, self.scale.mean, self.scale.squares],
            **self.collapse.state(),
        }

    def train(self) -> None:
        """Run the steps.

        Raises:
            TrainingError: a loss is not finite, or the policy has collapsed; the last sealed
                checkpoint is intact.
        """
        # Without dropout, so that the ratio of the first update is 1 and the reference is exact.
        self.model.eval()
        leg = self.leg
        for number in range(leg.first, leg.stage.stop):
            leg.begin_step(number)
            rollout = self.collect(number)
            metrics = self.updates.learn(rollout, number)
            leg.schedule.step()
            self.record(rollout, metrics)
            if step_end.close(leg):
                return

    def collect(self, number: int) -> Rollout:
        """Sample and score the answers of step `number`, from 0."""
        plan, options = self.plan, self.options
        prompts, copies = plan.prepared.train, plan.rlhf.copies
        count = plan.recipe.train.batch_size // copies
        places = range(number * count, (number + 1) * count)
        chosen = [prompts[position(n, len(prompts), plan.recipe.run.seed)] for n in places]
        chosen = [prompt for prompt in chosen for _ in range(copies)]
        # One batch is sampled in one process, so that it does not depend on their number.
        seed = plan.step_seed(number)
        answers = ranks.by_first(lambda: rollouts.draw(plan, self.model, chosen, seed))
        lengths = [len(answer.response_ids) for answer in answers]
        old, entropy, values = self.read(answers)
        with rollouts.reference(self.model), torch.no_grad():
            (reference,) = self.updates.spread(
                answers, lambda part: rollouts.token_scores(plan, self.model, part)[:1]
            )
        scores = ranks.by_first(lambda: self.judge(answers))
        # Before the policy is updated again.
        self.collapse.refuse(answers, float((old - reference).sum()) / len(answers))
        self.collapse.refuse_constant(scores)
        earned = self.earned(answers, scores).to(old)
        rewards = token_rewards(
            earned, ESTIMATORS[options.kl_estimator](old, reference), self.coefficient, lengths
        )
        if options.whiten_rewards:
            rewards = whiten(rewards, shift=False)
        # Token by token: on a GPU each would be several kernels.
        advantage, returns = (
            each.to(old)
            for each in advantages(
                rewards.cpu(), values.cpu(), lengths, options.gamma, options.gae_lambda
            )
        )
        if options.whiten_advantages:
            advantage = whiten(advantage)
        return Rollout(
            answers, lengths, old, reference, values, entropy, scores, advantage, returns
        )

    def read(self, answers: list[Response]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute log-probabilities, entropies and values of all tokens, before any update."""

        def see(part: Sequence[Response]) -> Sequence[torch.Tensor]:
            old, entropy, hidden = rollouts.token_scores(self.plan, self.model, part, True)
            return old, entropy, self.model.value_head.values(part, hidden)

        with torch.no_grad():
            old, entropy, values = self.updates.spread(answers, see)
        return old, entropy, values

    def earned(self, answers: Sequence[Response], scores: Scores) -> torch.Tensor:
        """Return (answers,) scores, scaled, clipped, less the penalty for a missing stop token."""
        options, total = self.options, list(scores.total)
        if options.normalize_scores:
            spread = self.scale.add(total)
            total = [score / spread for score in total]
        if options.score_clip is not None:
            most = options.score_clip
            total = [min(max(score, -most), most) for score in total]
        return torch.tensor(rollouts.priced(self.plan, answers, total))

    def record(self, rollout: Rollout, learned: Mapping[str, float]) -> None:
        """Log the metrics of a step, and samples when due."""
        answers = rollout.answers
        kl = float((rollout.old - rollout.reference).sum()) / len(answers)
        left = rollout.returns - rollout.values
        variance = float(rollout.returns.var(correction=0))
        metrics: dict[str, Any] = {
            "loss": learned["policy_loss"] + self.options.value_coefficient * learned["value_loss"],
            **rollouts.figures(answers, rollout.scores),
            "kl": kl,
            "kl_k3": float(kl_k3(rollout.old, rollout.reference).sum()) / len(answers),
            "kl_coefficient": self.coefficient,
            "entropy": float(rollout.entropy.mean()),
            "explained_variance": 1 - float(left.var(correction=0)) / variance if variance else 0.0,
            "learning_rate": float(self.leg.schedule.get_last_lr()[0]),
            "seconds": time.perf_counter() - self.leg.step.started,
            **learned,
        }
        if self.options.kl_target is not None:
            self.coefficient = adapt(
                self.coefficient, kl, self.options.kl_target, len(answers), self.options.kl_horizon
            )
        shown = ("reward", "kl", "length", "ended", "explained_variance", "seconds")
        step_end.log(self.leg, metrics, {name: metrics[name] for name in shown})
        step_end.samples(self.leg, answers, rollout.scores)
