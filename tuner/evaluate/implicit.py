"""Metrics of a policy trained on preferences: its implicit rewards (Rafailov et al. 2023).

The reward of an answer is beta * (log-probability - log-probability under the reference policy);
the metrics of reward models (`evaluate.preference`) are computed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tuner.data.preferences import Ranking
from tuner.evaluate import generation
from tuner.evaluate.preference import Judged
from tuner.machine import ranks
from tuner.rewards.response import Response
from tuner.tasks import rollouts

if TYPE_CHECKING:
    from tuner.plan.plan import Plan


@torch.no_grad()
def observe(
    plan: Plan, model: Any, tick: Callable[[int, int], None] = lambda done, total: None
) -> list[Judged]:
    """Return the held-out prompts with the implicit rewards of their answers.

    Args:
        plan: has the prompts, and beta as `rlhf.kl_coefficient`.
        model: the policy; left in evaluation mode.
        tick: called with (prompts_done, prompts_total).
    """
    rows: list[Ranking] = plan.prepared.eval[: plan.recipe.eval.max_rows]
    model.eval()

    def judge(own: Sequence[Ranking], told: Callable[[int, int], None]) -> list[Judged]:
        result = list[Judged]()
        for row in own:
            answers = responses(row)
            now = log_probabilities(plan, model, answers)
            with rollouts.reference(model):
                start = log_probabilities(plan, model, answers)
            moved = ((now - start) * plan.rlhf.kl_coefficient).tolist()
            result.append(Judged(row, tuple(moved)))
            told(len(result), len(own))
        return result

    return ranks.spread(rows, judge, tick)


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


def samples(plan: Plan, model: Any) -> list[dict[str, str]]:
    """Return greedy answers to the first held-out prompts, with the preferred one of the row."""
    chosen: list[Any] = plan.prepared.eval[: plan.recipe.eval.samples]
    model.eval()
    answers = generation.answer(plan, model, chosen)
    return [
        {
            "prompt": row.prompt_text,
            "reference": row.texts[row.pairs[0][0]],
            "answer": answer,
        }
        for row, answer in zip(chosen, answers, strict=True)
    ]
