"""Proximal policy optimisation of a language model against a reward.

After Schulman et al. 2017 (PPO) and 2016 (GAE), Ziegler et al. 2019 (adaptive KL), Stiennon et al.
2020 and Ouyang et al. 2022 (RLHF, PPO-ptx), and "The N Implementation Details of RLHF with PPO"
(Huang et al. 2024). A step draws answers, judges them, and makes a few passes of updates over them.

Tokens of all answers of a step lie in one row, (tokens,), without padding; `lengths` says how many
belong to each answer. So nothing can be computed over padding, and a token behind the stop token
does not exist.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from tuner.data.order import Stream, position
from tuner.machine import ranks
from tuner.rewards.constant import ConstantGuard
from tuner.rewards.response import Response, Scores
from tuner.tasks import rollouts
from tuner.tasks.collapse import refuse_collapse
from tuner.tasks.optimizer import CRITIC
from tuner.tasks.ppo_math import (
    ESTIMATORS,
    Reduce,
    RunningScale,
    adapt,
    advantages,
    kl_k3,
    policy_losses,
    token_rewards,
    value_losses,
    whiten,
)
from tuner.tasks.sft import token_loss
from tuner.tasks.watch import not_finite

if TYPE_CHECKING:
    from tuner.tasks.leg import Leg


Row = TypeVar("Row")


@dataclass
class Rollout:
    """The answers of a step and what is known of them before the first update.

    Attributes:
        answers: what was drawn.
        lengths: tokens of each answer.
        old: (tokens,) log-probabilities when they were drawn.
        reference: (tokens,) those of the policy's start.
        values: (tokens,) what the critic expected.
        entropy: (tokens,).
        scores: of the rewards.
        advantages, returns: (tokens,), what is learned from.
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
        """Where the tokens of some answers stand, in the order of these answers."""
        starts = list(itertools.accumulate(self.lengths, initial=0))
        return torch.cat([torch.arange(starts[row], starts[row + 1]) for row in rows])


class Ppo:
    """The steps of a leg."""

    def __init__(self, leg: Leg) -> None:
        plan, task_state = leg.plan, leg.task_state
        self.plan, self.model, self.judge = plan, leg.trained.model, leg.trained.judge
        self.stage, self.first, self.watch = leg.stage, leg.first, leg.watch
        self.optimizer, self.schedule = leg.optimizer, leg.schedule
        self.options = plan.ppo
        self.coefficient = float(task_state.get("coefficient", plan.rlhf.kl_coefficient))
        self.scale = RunningScale(*task_state.get("scale", ()))
        self.guard = ConstantGuard()
        if "guard" in task_state:
            self.guard.restore(task_state["guard"])
        self.endless = int(task_state.get("endless", 0))
        leg.watch.stage = leg.stage
        leg.watch.task_state = self.state
        # Every process has the tokens of all: nothing is left to sum.
        self.reduce: Reduce = lambda sums: sums
        self.here = ranks.place()

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides weights and optimizer."""
        return {
            "coefficient": self.coefficient,
            "scale": [self.scale.count, self.scale.mean, self.scale.squares],
            "guard": self.guard.state(),
            "endless": self.endless,
        }

    def train(self) -> None:
        """Run the steps.

        Raises:
            TrainingError: a loss is not finite, or the policy has collapsed; no update was made
                after the last sealed checkpoint that is not lost with it.
        """
        # Without dropout: the ratio of the first update is 1, and a reference is a reference.
        self.model.eval()
        for number in range(self.first, self.stage.stop):
            self.watch.start_step(number)
            rollout = self.collect(number)
            metrics = self.learn(rollout, number)
            self.schedule.step()
            self.record(rollout, number + 1, metrics)
            if self.watch.end_step(number + 1, self.optimizer, self.schedule):
                return

    def collect(self, number: int) -> Rollout:
        """Draw and judge the answers of step `number`, from 0."""
        plan, options = self.plan, self.options
        prompts, copies = plan.prepared.train, plan.rlhf.copies
        count = plan.recipe.train.batch_size // copies
        places = range(number * count, (number + 1) * count)
        chosen = [prompts[position(n, len(prompts), plan.recipe.run.seed)] for n in places]
        chosen = [prompt for prompt in chosen for _ in range(copies)]
        # What is drawn in one batch is drawn in one process: so it does not hang on their number.
        seed = plan.step_seed(number)
        answers = ranks.by_first(lambda: rollouts.draw(plan, self.model, chosen, seed))
        lengths = [len(answer.response_ids) for answer in answers]
        old, entropy, values = self._read(answers)
        with rollouts.reference(self.model), torch.no_grad():
            (reference,) = self._spread(
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

    def learn(self, rollout: Rollout, number: int) -> dict[str, float]:
        """The updates of a step; what they came to."""
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
        """What every update reports besides the gradient norm."""
        ptx = ["ptx_loss"] if self.options.ptx_coefficient else []
        return ["policy_loss", "value_loss", "clip_share", "step_kl", *ptx]

    def _update(
        self, rollout: Rollout, rows: Sequence[int], number: int, update: int
    ) -> dict[str, float]:
        """One optimizer step on some of the answers, in micro-batches that sum to the same."""
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
                # Drawn from the old policy: KL(old || new).
                sums["step_kl"] += float(kl_k3(old, new).sum()) / tokens
        if options.ptx_coefficient:
            turns = options.epochs * options.minibatches
            sums["ptx_loss"] = self._ptx(len(rows), number * turns + update)
        ranks.sum_gradients([weight for _, weight in self.watch.parameters])
        sums = dict(zip(sums, ranks.total(list(sums.values())), strict=True))
        norm = self._clip()
        whole = sums["policy_loss"] + sums["value_loss"]
        for name, value in (("loss", whole), ("gradient norm", norm)):
            if not math.isfinite(value):
                names = [rollout.answers[row].row for row in rows]
                raise not_finite(name, value, number + 1, names, self.watch.last_good())
        self.watch.updating = True
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**sums, "grad_norm": norm}

    def _clip(self) -> float:
        """Clip the gradients of policy and critic, each by itself; the norm of both together."""
        most, squares = self.plan.recipe.train.max_grad_norm, 0.0
        for critic in (False, True):
            weights = [
                weight
                for name, weight in self.watch.parameters
                if name.startswith(CRITIC) == critic and weight.grad is not None
            ]
            if weights:
                squares += float(torch.nn.utils.clip_grad_norm_(weights, most)) ** 2
        return math.sqrt(squares) if math.isfinite(squares) else squares

    def _ptx(self, count: int, update: int) -> float:
        """The gradient of the language loss on supervised rows, beside the policy's own.

        Args:
            count: rows.
            update: number of the update within the run; says which rows.
        """
        rows, coefficient = self.plan.ptx, self.options.ptx_coefficient
        start = update * count
        seed = self.plan.recipe.run.seed
        chosen = Stream(rows, seed, start, start + count, count, grouped=True).step(0)
        targets = sum(row.num_targets for row in chosen)
        total = 0.0
        for part in self._own(chosen):
            batch = self.plan.collate(part)
            batch = {key: value.to(self.model.device) for key, value in batch.items()}
            labels = batch.pop("labels")
            loss = token_loss(self.model(**batch), labels, targets)
            (coefficient * loss).backward()
            total += float(loss.detach())
        return total

    def _parts(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        size = self.plan.micro_batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _own(self, rows: Sequence[Row]) -> list[Sequence[Row]]:
        """The micro-batches of which this process takes the gradients."""
        return self._parts(rows)[self.here.rank :: self.here.world]

    def _spread(
        self,
        answers: list[Response],
        see: Callable[[Sequence[Response]], Sequence[torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        """What `see` makes of each micro-batch, (tokens,) each, seen by one process each."""
        seen = ranks.spread(
            self._parts(answers),
            lambda own, _: [[tensor.cpu() for tensor in see(part)] for part in own],
            lambda done, _: None,
        )
        return tuple(torch.cat(each).to(self.model.device) for each in zip(*seen, strict=True))

    def _read(self, answers: list[Response]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities, entropies and values of all tokens, before any update."""

        def see(part: Sequence[Response]) -> Sequence[torch.Tensor]:
            old, entropy, hidden = rollouts.token_scores(self.plan, self.model, part, True)
            return old, entropy, self.model.value_head.values(part, hidden)

        with torch.no_grad():
            old, entropy, values = self._spread(answers, see)
        return old, entropy, values

    def _earned(self, answers: Sequence[Response], scores: Scores) -> torch.Tensor:
        """(answers,) what counts of the scores: scaled, cut, less the price of not ending."""
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
        """Stop where the policy is lost, before it is updated once more."""
        self.endless = 0 if any(answer.ended for answer in answers) else self.endless + 1
        mean_kl = float(kl.sum()) / len(answers)
        refuse_collapse(self.plan, answers, mean_kl, self.endless, number + 1, self.watch)

    def record(self, rollout: Rollout, step: int, learned: Mapping[str, float]) -> None:
        """The figures of a step, and now and then some answers."""
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
