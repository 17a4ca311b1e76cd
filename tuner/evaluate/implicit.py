"""Metrics of a policy trained on preferences: its implicit rewards.

The metrics of reward models (`evaluate.preference`) are computed from them. With log-probabilities
log p of an answer of n tokens, the reward is

- beta * (log p - log p under the reference policy) for dpo and kto (Rafailov et al. 2023),
- beta * log p for cpo (Xu et al. 2024), and beta / n * log p for simpo (Meng et al. 2024),
- for orpo the log-odds of the probability per token, exp(log p / n) (Hong et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.preferences import Ranking
from tuner.evaluate.preference import Judged
from tuner.rewards.response import Response
from tuner.tasks import rollouts

if TYPE_CHECKING:
    from tuner.plan.plan import Plan


@torch.no_grad()
def observe(
    plan: Plan, model: Any, rows: Sequence[Ranking], tick: Callable[[int, int], None]
) -> list[Judged]:
    """Return the held-out prompts with the implicit rewards of their answers.

    Args:
        plan: has beta as `rlhf.kl_coefficient`.
        model: the policy.
        rows: the prompts.
        tick: called with (prompts_done, prompts_total).
    """
    result = list[Judged]()
    for row in rows:
        answers = responses(row)
        result.append(Judged(row, tuple(_rewards(plan, model, answers).tolist())))
        tick(len(result), len(rows))
    return result


def _rewards(plan: Plan, model: Any, answers: Sequence[Response]) -> torch.Tensor:
    """Return (answers,) float64, each answer's reward."""
    now, algorithm = log_probabilities(plan, model, answers), plan.rlhf.algorithm
    if plan.rlhf.compares:
        with rollouts.reference(model):
            return (now - log_probabilities(plan, model, answers)) * plan.beta
    if algorithm == "cpo":
        return now * plan.beta
    mean = now / now.new_tensor([len(answer.response_ids) for answer in answers])
    return mean * plan.beta if algorithm == "simpo" else mean - torch.log(-torch.expm1(mean))


def log_probabilities(plan: Plan, model: Any, answers: Sequence[Response]) -> torch.Tensor:
    """Return (answers,) float64, summed over the answer's own tokens, stop token included."""
    scores, _, _ = rollouts.token_scores(plan, model, answers)
    lengths = [len(answer.response_ids) for answer in answers]
    return torch.stack([part.sum() for part in scores.double().split(lengths)])


def responses(ranking: Ranking) -> list[Response]:
    """Return the answers of a prompt as if the policy had sampled them."""
    prompt = tuple(ranking.prompt_ids)
    return [
        Response(
            row=ranking.row,
            prompt=ranking.prompt_text,
            text=text,
            reference="",
            num_tokens=len(ids) - len(prompt),
            ended=True,
            prompt_ids=prompt,
            response_ids=tuple(ids[len(prompt) :]),
        )
        for ids, text in zip(ranking.answers, ranking.texts, strict=True)
    ]
