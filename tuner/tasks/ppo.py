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
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.order import position
from tuner.machine import ranks
from tuner.rewards.constant import ConstantGuard
from tuner.rewards.response import Response, Scores
from tuner.tasks import rollouts
from tuner.tasks.collapse import refuse_collapse
from tuner.tasks.ppo_math import (
    ESTIMATORS,
    Reduce,
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
        plan, task_state = leg.plan, leg.task_state
        self.plan, self.model, self.judge = plan, leg.trained.model, leg.trained.judge
        self.stage, self.first, self.watch = leg.stage, leg.first, leg.watch
        self.optimizer, self.schedule = leg.optimizer, leg.schedule
        self.updates = Updates(leg)
        self.options = plan.ppo
        self.coefficient = float(task_state.get("coefficient", plan.rlhf.kl_coefficient))
        self.scale = RunningScale(*task_state.get("scale", ()))
        self.guard = ConstantGuard()
        if "guard" in task_state:
            self.guard.restore(task_state["guard"])
        self.endless = int(task_state.get("endless", 0))
        leg.watch.stage = leg.stage
        leg.watch.task_state = self.state
        # Every process has the tokens of all: there is nothing left to sum.
        self.reduce: Reduce = lambda sums: sums

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on besides weights and optimizer."""
        return {
            "coefficient": self.coefficient,
            "scale": [self.scale.count, self.scale.mean, self.scale.squares],
            "guard": self.guard.state(),
            "endless": self.endless,
        }

    def train(self) -> None:
        """Run the steps.

        Raises:
            TrainingError: a loss is not finite, or the policy has collapsed; the last sealed
                checkpoint is intact.
        """
        # Without dropout, so that the ratio of the first update is 1 and the reference is exact.
        self.model.eval()
        for number in range(self.first, self.stage.stop):
            self.watch.start_step(number)
            rollout = self.collect(number)
            metrics = self.updates.learn(rollout, number)
            self.schedule.step()
            self.record(rollout, number + 1, metrics)
            if self.watch.end_step(number + 1, self.optimizer, self.schedule):
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
        old, entropy, values = self._read(answers)
        with rollouts.reference(self.model), torch.no_grad():
            (reference,) = self.updates.spread(
                answers, lambda part: rollouts.token_scores(plan, self.model, part)[:1]
            )
        scores = ranks.by_first(lambda: self.judge(answers))
        self._refuse_collapse(answers, old - reference, number)
        if warning := self.guard.update(scores):
            self.watch.reporter.note(f"warning: {warning}")
        earned = self._earned(answers, scores).to(old)
        rewards = token_rewards(
            earned, ESTIMATORS[options.kl_estimator](old, reference), self.coefficient, lengths
        )
        if options.whiten_rewards:
            rewards = whiten(rewards, self.reduce, shift=False)
        advantage, returns = advantages(rewards, values, lengths, options.gamma, options.gae_lambda)
        if options.whiten_advantages:
            advantage = whiten(advantage, self.reduce)
        return Rollout(
            answers, lengths, old, reference, values, entropy, scores, advantage, returns
        )

    def _read(self, answers: list[Response]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute log-probabilities, entropies and values of all tokens, before any update."""

        def see(part: Sequence[Response]) -> Sequence[torch.Tensor]:
            old, entropy, hidden = rollouts.token_scores(self.plan, self.model, part, True)
            return old, entropy, self.model.value_head.values(part, hidden)

        with torch.no_grad():
            old, entropy, values = self.updates.spread(answers, see)
        return old, entropy, values

    def _earned(self, answers: Sequence[Response], scores: Scores) -> torch.Tensor:
        """Return (answers,) scores, scaled, clipped, less the penalty for a missing stop token."""
        options, total = self.options, list(scores.total)
        if options.normalize_scores:
            spread = self.scale.add(total)
            total = [score / spread for score in total]
        if options.score_clip is not None:
            most = options.score_clip
            total = [min(max(score, -most), most) for score in total]
        penalty = self.plan.rlhf.missing_eos_penalty
        return torch.tensor(
            [
                score - (0.0 if answer.ended else penalty)
                for score, answer in zip(total, answers, strict=True)
            ]
        )

    def _refuse_collapse(self, answers: Sequence[Response], kl: torch.Tensor, number: int) -> None:
        """Stop a collapsed policy before it is updated again."""
        self.endless = 0 if any(answer.ended for answer in answers) else self.endless + 1
        mean_kl = float(kl.sum()) / len(answers)
        refuse_collapse(self.plan, answers, mean_kl, self.endless, number + 1, self.watch)

    def record(self, rollout: Rollout, step: int, learned: Mapping[str, float]) -> None:
        """Log the metrics of a step, and samples when due."""
        answers, tokens = rollout.answers, len(rollout.old)
        log_ratio = rollout.old - rollout.reference
        kl = float(log_ratio.sum()) / len(answers)
        left = rollout.returns - rollout.values
        variance = float(rollout.returns.var(correction=0))
        metrics: dict[str, Any] = {
            "step": step,
            "loss": learned["policy_loss"] + self.options.value_coefficient * learned["value_loss"],
            "reward": sum(rollout.scores.total) / len(answers),
            **{f"reward_{name}": sum(v) / len(v) for name, v in rollout.scores.parts.items()},
            "kl": kl,
            "kl_k3": float(kl_k3(rollout.old, rollout.reference).sum()) / len(answers),
            "kl_coefficient": self.coefficient,
            "entropy": float(rollout.entropy.mean()),
            "explained_variance": 1 - float(left.var(correction=0)) / variance if variance else 0.0,
            "length": tokens / len(answers),
            "ended": sum(answer.ended for answer in answers) / len(answers),
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "tokens": tokens + sum(len(answer.prompt_ids) for answer in answers),
            "seconds": time.perf_counter() - self.watch.step_started,
            **learned,
        }
        if self.options.kl_target is not None:
            self.coefficient = adapt(
                self.coefficient, kl, self.options.kl_target, len(answers), self.options.kl_horizon
            )
        self.watch.log(step, metrics)
        shown = ("reward", "kl", "length", "ended", "explained_variance", "seconds")
        self.watch.reporter.progress(step, self.plan.steps, {name: metrics[name] for name in shown})
        every = self.plan.rlhf.sample_steps
        if every and (step == 1 or step % every == 0):
            self.watch.samples(step, rollout.answers, rollout.scores)
