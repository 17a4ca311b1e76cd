"""Metrics of a policy trained on preferences: its implicit rewards (Rafailov et al. 2023).

The reward of an answer is beta * (log-probability - log-probability under the reference policy);
the metrics of reward models (`evaluate.preference`) are computed from it.
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
        now = log_probabilities(plan, model, answers)
        with rollouts.reference(model):
            start = log_probabilities(plan, model, answers)
        moved = ((now - start) * plan.rlhf.kl_coefficient).tolist()
        result.append(Judged(row, tuple(moved)))
        tick(len(result), len(rows))
    return result


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
