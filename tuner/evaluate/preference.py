"""Metrics of a reward model: accuracy, margin, calibration and length bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.data.preferences import Ranking
from tuner.inference.scores import TOKENS_PER_BATCH, scores

if TYPE_CHECKING:
    from tuner.plan.plan import Plan

BINS = 10


@dataclass(frozen=True)
class Judged:
    """The scores of the answers to one held-out prompt."""

    ranking: Ranking
    scores: tuple[float, ...]

    @property
    def differences(self) -> list[float]:
        """Return the score of the better answer less that of the worse one, per pair; a thumb
        without an opposite one is compared with 0, the last of the scores (`ZERO`)."""
        scores = (*self.scores, 0.0)
        return [scores[better] - scores[worse] for better, worse, _ in self.ranking.pairs]


def observe(
    plan: Plan, model: Any, rows: Sequence[Ranking], tick: Callable[[int, int], None]
) -> list[Judged]:
    """Return the held-out prompts with the scores of their answers."""
    answers = [ids for row in rows for ids in row.answers]
    values = iter(
        scores(
            model,
            answers,
            plan.tokenizer.pad_token_id,
            # Prompts have about the same number of answers.
            lambda done: tick(done * len(rows) // max(1, len(answers)), len(rows)),
            plan.tokens_at_once(TOKENS_PER_BATCH),
        )
    )
    return [Judged(row, tuple(islice(values, len(row.answers)))) for row in rows]


def sample(item: Judged) -> dict[str, str]:
    """Return a prompt to show: its answers, the better ones first, each with its score."""
    ranking = item.ranking
    shown = [f"{value:+.3f}" for value in item.scores]
    reference = "\n".join(ranking.texts)
    return {"prompt": ranking.prompt_text, "reference": reference, "answer": "  ".join(shown)}


def loss(judged: Sequence[Judged]) -> float | None:
    """Return the mean of -log sigmoid(difference), each prompt counted once."""
    return mean(mean(_softplus(-d) for d in item.differences) or 0.0 for item in judged)


def accuracy(judged: Sequence[Judged]) -> float | None:
    """Return the share of pairs whose better answer scores higher; a tie counts half."""
    return mean(0.5 if d == 0 else float(d > 0) for d in _differences(judged))


def margin(judged: Sequence[Judged]) -> float | None:
    """Return the mean difference of the scores of a pair."""
    return mean(_differences(judged))


def calibration_error(judged: Sequence[Judged]) -> float | None:
    """Return the expected calibration error of sigmoid(|difference|) as a probability.

    Ten bins of equal width (Guo et al. 2017); 0 is perfect.
    """
    pairs = _differences(judged)
    if not pairs:
        return None
    error = 0.0
    sure = [1 / (1 + math.exp(-min(abs(d), 700.0))) for d in pairs]
    for number in range(BINS):
        low, high = 0.5 + number * 0.5 / BINS, 0.5 + (number + 1) * 0.5 / BINS
        inside = [
            (p, d)
            for p, d in zip(sure, pairs, strict=True)
            if low <= p < high or (p == high == 1.0)
        ]
        if inside:
            right = sum(0.5 if d == 0 else float(d > 0) for _, d in inside)
            error += abs(right - sum(p for p, _ in inside))
    return error / len(pairs)


def length_bias(judged: Sequence[Judged]) -> float | None:
    """Return the Pearson correlation of score and length, both less their prompt's mean."""
    values, lengths = [], []
    for item in judged:
        sizes = [len(ids) - len(item.ranking.prompt_ids) for ids in item.ranking.answers]
        values += [each - float(np.mean(item.scores)) for each in item.scores]
        lengths += [each - float(np.mean(sizes)) for each in sizes]
    spread = float(np.std(values) * np.std(lengths)) if values else 0.0
    return float(np.mean(np.multiply(values, lengths))) / spread if spread else None


def _differences(judged: Sequence[Judged]) -> list[float]:
    return [difference for item in judged for difference in item.differences]


def mean(values: Iterable[float]) -> float | None:
    """Return the mean; None of nothing."""
    known = list(values)
    return math.fsum(known) / len(known) if known else None


def _softplus(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
