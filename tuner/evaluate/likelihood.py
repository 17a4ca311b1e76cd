"""Metrics from the likelihood of given answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from tuner.data.pack import IGNORED, collate_packed, collate_padded

if TYPE_CHECKING:
    from tuner.data.prepare import EvalRow, Example
    from tuner.plan import Plan

TOKENS_PER_BATCH = 1024


@dataclass(frozen=True)
class Observation:
    """What the model made of one held-out row.

    Attributes:
        row: the row.
        loss_sum: negative log-likelihood of the answer's tokens, in nats.
        tokens: how many.
        correct: how many of them had the highest probability.
        choice: the label the model finds likeliest, where the row has labels.
        answer: what it generated, where asked.
    """

    row: EvalRow
    loss_sum: float
    tokens: int
    correct: int
    choice: int | None = None
    answer: str | None = None

    def with_answer(self, answer: str) -> Observation:
        """The same with a generated answer."""
        return replace(self, answer=answer)


def mean_loss(observed: Sequence[Observation]) -> float | None:
    """Mean negative log-likelihood per answer token, in nats, over all rows together."""
    tokens = sum(item.tokens for item in observed)
    return sum(item.loss_sum for item in observed) / tokens if tokens else None


def perplexity(observed: Sequence[Observation]) -> float | None:
    """exp of the mean loss."""
    loss = mean_loss(observed)
    return None if loss is None else math.exp(min(loss, 700.0))


def token_accuracy(observed: Sequence[Observation]) -> float | None:
    """Share of answer tokens that the model ranks first."""
    tokens = sum(item.tokens for item in observed)
    return sum(item.correct for item in observed) / tokens if tokens else None


def label_accuracy(observed: Sequence[Observation]) -> float | None:
    """Share of the rows with labels whose own label is the likeliest."""
    labelled = [item for item in observed if item.choice is not None]
    right = sum(item.choice == item.row.gold for item in labelled)
    return right / len(labelled) if labelled else None


def observe(
    plan: Plan, model: Any, rows: Sequence[EvalRow], tick: Callable[[int, int], None]
) -> list[Observation]:
    """An observation of every row, in their order; each row is computed on its own terms, so that
    neither its neighbours nor the batch size matter."""
    result: dict[int, Observation] = {}
    plain = [number for number, row in enumerate(rows) if not row.options]
    for batch in _batches(plain, rows):
        for number, item in zip(batch, _plain(plan, model, [rows[n] for n in batch]), strict=True):
            result[number] = item
        tick(len(result), len(rows))
    for number, row in enumerate(rows):
        if row.options:
            result[number] = _labelled(plan, model, row)
            tick(len(result), len(rows))
    return [result[number] for number in range(len(rows))]


def _batches(numbers: Sequence[int], rows: Sequence[EvalRow]) -> list[list[int]]:
    batches: list[list[int]] = []
    size = TOKENS_PER_BATCH
    for number in numbers:
        length = len(rows[number].example.input_ids)
        if size + length > TOKENS_PER_BATCH:
            batches.append([])
            size = 0
        batches[-1].append(number)
        size += length
    return batches


def _plain(plan: Plan, model: Any, rows: Sequence[EvalRow]) -> list[Observation]:
    examples = [row.example for row in rows]
    batch = collate_packed(examples) if plan.packing else collate_padded(examples)
    labels = batch.pop("labels")[:, 1:]
    logits = model(**{k: v.to(model.device) for k, v in batch.items()}, use_cache=False).logits
    loss, right = _token_scores(logits, labels.to(model.device))
    if plan.packing:
        counts = [_targets(example) for example in examples]
        losses = [part.sum() for part in loss[0].split(counts)]
        rights = [part.sum() for part in right[0].split(counts)]
    else:
        losses, rights = list(loss.sum(dim=1)), list(right.sum(dim=1))
    return [
        Observation(row, float(a), _targets(row.example), int(b))
        for row, a, b in zip(rows, losses, rights, strict=True)
    ]


def _targets(example: Example) -> int:
    return sum(example.supervised[1:])


def _token_scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per position: negative log-likelihood (0 where ignored), and whether the target came first."""
    loss = functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return loss.double(), (logits.argmax(dim=-1) == labels) & (labels != IGNORED)


def _labelled(plan: Plan, model: Any, row: EvalRow) -> Observation:
    """Score every label behind one pass over what they share."""
    shared = _shared_length([option.input_ids for option in row.options])
    first = min(
        next(n for n, target in enumerate(option.supervised) if target) for option in row.options
    )
    shared = min(shared, first) - 1
    if shared < 1 or not plan.method.packing:
        scored = _plain(plan, model, [replace(row, example=option) for option in row.options])
        losses = [item.loss_sum for item in scored]
        gold = scored[row.gold] if row.gold is not None else _plain(plan, model, [row])[0]
    else:
        losses, gold = _behind_prefix(model, row, shared)
    choice = min(range(len(losses)), key=losses.__getitem__)
    return replace(gold, row=row, choice=choice)


def _shared_length(sequences: Sequence[Sequence[int]]) -> int:
    length = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


def _behind_prefix(model: Any, row: EvalRow, shared: int) -> tuple[list[float], Observation]:
    device = model.device
    prefix = torch.tensor([row.options[0].input_ids[:shared]], device=device)
    cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(len(row.options))
    tails = [option.input_ids[shared:] for option in row.options]
    longest = max(len(tail) for tail in tails)
    ids = torch.zeros((len(tails), longest), dtype=torch.long)
    labels = torch.full((len(tails), longest), IGNORED)
    for number, (tail, option) in enumerate(zip(tails, row.options, strict=True)):
        ids[number, : len(tail)] = torch.tensor(tail)
        wanted = torch.tensor(option.supervised[shared:])
        labels[number, : len(tail)] = torch.where(wanted, torch.tensor(tail), IGNORED)
    logits = model(input_ids=ids.to(device), past_key_values=cache, use_cache=True).logits
    loss, right = _token_scores(logits[:, :-1], labels[:, 1:].to(device))
    losses = [float(value) for value in loss.sum(dim=1)]
    gold = row.gold or 0
    return losses, Observation(
        row, losses[gold], _targets(row.options[gold]), int(right[gold].sum())
    )
