"""Metrics of a policy: the rewards of its answers to held-out prompts, and its KL."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tuner.evaluate.preference import mean
from tuner.machine import ranks
from tuner.rewards.response import Response, Scores
from tuner.tasks import rollouts

if TYPE_CHECKING:
    from tuner.plan.plan import Plan

Judge = Callable[[Sequence[Response]], Scores]
ROWS_PER_BATCH = 16
# Samples differ from those of any step, and have the same seeds before and after.
_DRAW = -1


@dataclass(frozen=True)
class Earned:
    """An answer to a held-out prompt.

    Attributes:
        answer: the sampled answer.
        reward: the weighted sum of the rewards.
        parts: each of them.
        kl: log-probability less that of the reference policy, over all its tokens, in nats.
    """

    answer: Response
    reward: float
    parts: dict[str, float]
    kl: float


def mean_reward(earned: Sequence[Earned]) -> float | None:
    """Return the mean reward per answer."""
    return mean([item.reward for item in earned])


def reward_ci95(earned: Sequence[Earned]) -> float | None:
    """Return half the width of the 95 % confidence interval of the mean reward (normal)."""
    values = [item.reward for item in earned]
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return 1.96 * math.sqrt(variance / len(values))


def kl(earned: Sequence[Earned]) -> float | None:
    """Return the mean KL per answer from the reference policy, estimated by sampling, in nats."""
    return mean([item.kl for item in earned])


def response_length(earned: Sequence[Earned]) -> float | None:
    """Return the mean tokens per answer, without stop tokens."""
    return mean([float(item.answer.num_tokens) for item in earned])


def ended_share(earned: Sequence[Earned]) -> float | None:
    """Return the share of the answers with a stop token."""
    return mean([float(item.answer.ended) for item in earned])


@torch.no_grad()
def observe(plan: Plan, model: Any, judge: Judge, tick: Callable[[int, int], None]) -> list[Earned]:
    """Sample and score an answer to every held-out prompt, with the same seeds every time.

    Args:
        plan: has the prompts.
        model: the policy.
        judge: its rewards.
        tick: called with (prompts_done, prompts_total).
    """
    prompts = plan.prepared.eval[: plan.recipe.eval.max_rows]
    ids = [prompt.input_ids for prompt in prompts]
    size = plan.answers_at_once(ROWS_PER_BATCH, ids, plan.rlhf.max_new_tokens)
    model.eval()

    def observe_batches(
        starts: Sequence[int], tick: Callable[[int, int], None]
    ) -> list[list[Earned]]:
        found = []
        for first in starts:
            found.append(_earned(plan, model, judge, prompts[first : first + size], first))
            tick(len(found), len(starts))
        return found

    batches = range(0, len(prompts), size)
    of_all = ranks.spread(
        batches,
        observe_batches,
        lambda done, _: tick(min(done * size, len(prompts)), len(prompts)),
    )
    return [item for batch in of_all for item in batch]


def _earned(
    plan: Plan, model: Any, judge: Judge, chosen: Sequence[Any], first: int
) -> list[Earned]:
    """Sample and score answers to a batch of prompts, of which the first has number `first`."""
    answers = rollouts.draw(plan, model, chosen, plan.step_seed(_DRAW) - first)
    lengths = [len(answer.response_ids) for answer in answers]
    now, _, _ = rollouts.token_scores(plan, model, answers)
    with rollouts.reference(model):
        start, _, _ = rollouts.token_scores(plan, model, answers)
    scores = judge(answers)
    moved = (now - start).double().split(lengths)
    result = []
    for number, answer in enumerate(answers):
        parts = {name: values[number] for name, values in scores.parts.items()}
        total = scores.total[number]
        result.append(Earned(answer, total, parts, float(moved[number].sum())))
    return result


def parts(earned: Sequence[Earned]) -> dict[str, float]:
    """Return the mean of each reward before its weight, as reward_NAME."""
    names = earned[0].parts if earned else ()
    return {
        f"reward_{name}": math.fsum(item.parts[name] for item in earned) / len(earned)
        for name in names
    }


def samples(plan: Plan, model: Any) -> list[dict[str, str]]:
    """Return greedy answers to the first held-out prompts: prompt, reference, answer."""
    chosen = plan.prepared.eval[: plan.recipe.eval.samples]
    if not chosen:
        return []
    model.eval()
    answers = rollouts.draw(plan, model, chosen, 0, greedy=True)
    return [
        {"prompt": prompt.text, "reference": prompt.reference, "answer": answer.text}
        for prompt, answer in zip(chosen, answers, strict=True)
    ]
