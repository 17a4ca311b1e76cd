"""Reward modelling: one score per answer, higher for the preferred one (Bradley-Terry).

All answers of a prompt are scored in one forward pass, each once, and all their pairs are compared;
a prompt counts once, however many pairs it has (Ouyang et al. 2022, section 3.5). trl's
`RewardTrainer` sees only pairs: it would score an answer once per pair and could not weight them.
On plain pairs its loss is the same, which `tests/tasks/test_reward_loss.py` checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from tuner.data.preferences import Ranking
from tuner.data.tokens.collate import collate_read
from tuner.data.tokens.example import IGNORED
from tuner.recipe.schema_rlhf import RewardSection
from tuner.tasks.sft import on_trainer

if TYPE_CHECKING:
    from transformers import Trainer

    from tuner.tasks.leg import Leg


def pair_losses(scores: torch.Tensor, ranking: Ranking, options: RewardSection) -> torch.Tensor:
    """Return the loss of each pair of a prompt, (pairs,).

    Args:
        scores: (answers,) of the prompt's answers.
        ranking: has the pairs and their margins.
        options: the recipe's `reward` section.
    """
    better, worse, margins = zip(*ranking.pairs, strict=True)
    # What a thumb without an opposite one is compared with, under `ZERO`, the last index.
    scores = torch.cat([scores, scores.new_zeros(1)])
    first, second = scores[list(better)], scores[list(worse)]
    wanted = torch.tensor(margins, device=scores.device) if options.margins else 0.0
    loss = -functional.logsigmoid(first - second - wanted)
    # Eisenstein et al. 2023: only differences are learned, so the scores would drift.
    return loss + options.centering * (first + second) ** 2


class RankingBatches:
    """Collator and loss of one data set: labels name the prompts of a micro-batch.

    Args:
        rankings: the training rows.
        options: the recipe's `reward` section.
        pad_id: fills padded rows.
    """

    def __init__(self, rankings: Sequence[Ranking], options: RewardSection, pad_id: int) -> None:
        self._rankings = rankings
        self._numbers = {id(ranking): number for number, ranking in enumerate(rankings)}
        self._options = options
        self._pad_id = pad_id

    def collate(self, rows: Sequence[Ranking]) -> dict[str, torch.Tensor]:
        """Collate the answers of all prompts, one after the other, and labels (prompts, 2): an
        ignored column, then the number of each prompt."""
        numbers = [self._numbers[id(row)] if row.pairs else IGNORED for row in rows]
        labels = np.array([[IGNORED, number] for number in numbers])
        answers = [ids for row in rows for ids in row.answers]
        return {**collate_read(answers, self._pad_id), "labels": torch.from_numpy(labels)}

    def loss(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the sum of mean pair losses per prompt, divided by the prompts of the step."""
        rows = [self._rankings[n] if n != IGNORED else None for n in labels[:, 1].tolist()]
        counts = [len(row.answers) if row else 1 for row in rows]
        scores = outputs.logits[:, 0].float().split(counts)
        total = torch.stack(
            [
                pair_losses(own, row, self._options).mean() if row else 0 * own.sum()
                for own, row in zip(scores, rows, strict=True)
            ]
        ).sum()
        return total / (len(rows) if num_items_in_batch is None else num_items_in_batch)


def trainer(leg: Leg) -> Trainer:
    """Return the Trainer of a leg."""
    batches = RankingBatches(
        leg.plan.prepared.train,
        leg.plan.recipe.reward or RewardSection(),
        leg.plan.tokenizer.pad_token_id,
    )
    return on_trainer(leg, batches.collate, batches.loss)
