"""Metrics from the likelihood of given answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from tuner.data.tokens.collate import placed
from tuner.data.tokens.example import IGNORED
from tuner.tasks import heads

if TYPE_CHECKING:
    from tuner.data.tokens.prepared import EvalRow
    from tuner.plan.plan import Plan

TOKENS_PER_BATCH = 1024
# Positions whose logits are processed together.
_POSITIONS = 128


@dataclass(frozen=True)
class Observation:
    """What the model computed for one held-out row.

    Attributes:
        row: the row.
        loss_sum: negative log-likelihood of the answer's tokens, in nats.
        tokens: how many; like the other two, weighed as in training.
        correct: how many of them had the highest probability.
        choice: the likeliest label, if the row has labels.
        answer: what it generated, if asked to.
        outputs: of a head whose outputs are learned one by one.
    """

    row: EvalRow
    loss_sum: float
    tokens: float
    correct: float
    choice: int | None = None
    answer: str | None = None
    outputs: tuple[float, ...] = ()

    def with_answer(self, answer: str) -> Observation:
        """Return the same with a generated answer."""
        return replace(self, answer=answer)


def mean_loss(observed: Sequence[Observation]) -> float | None:
    """Return the mean negative log-likelihood per answer token, in nats, over all rows; of rows
    with several labels, per row the mean over these."""
    tokens = sum(item.tokens for item in observed)
    return sum(item.loss_sum for item in observed) / tokens if tokens else None


def perplexity(observed: Sequence[Observation]) -> float | None:
    """Return exp of the mean loss."""
    loss = mean_loss(observed)
    return None if loss is None else math.exp(min(loss, 700.0))


def token_accuracy(observed: Sequence[Observation]) -> float | None:
    """Return the share of answer tokens that the model ranks first."""
    tokens = sum(item.tokens for item in observed)
    return sum(item.correct for item in observed) / tokens if tokens else None


def label_accuracy(observed: Sequence[Observation]) -> float | None:
    """Return the share of the rows with labels whose own label is the likeliest."""
    labelled = [item for item in observed if item.choice is not None]
    right = sum(item.choice == item.row.gold for item in labelled)
    return right / len(labelled) if labelled else None


def observe(
    plan: Plan, model: Any, rows: Sequence[EvalRow], tick: Callable[[int, int], None]
) -> list[Observation]:
    """Observe every row, in order; rows that share a forward pass do not see each other, so the
    batch size does not matter."""
    result: dict[int, Observation] = {}
    window = getattr(model.config, "sliding_window", None)
    before = getattr(plan.recipe.method, "num_virtual_tokens", 0)
    for labelled in (False, True):
        numbers = [n for n, row in enumerate(rows) if bool(row.options) == labelled]
        trees = {n: Tree.of(rows[n]) for n in numbers} if labelled and plan.packing else {}
        together = bool(trees) and all(
            tree.prefix > 0 and (window is None or before + len(tree.ids) <= window)
            for tree in trees.values()
        )
        for batch in _batches(numbers, rows, trees, plan.tokens_at_once(TOKENS_PER_BATCH)):
            chosen = [rows[n] for n in batch]
            if not labelled:
                observed = _plain(plan, model, chosen)
            elif together:
                observed = _in_trees(plan, model, chosen, [trees[n] for n in batch])
            else:
                observed = [_one_by_one(plan, model, row) for row in chosen]
            result.update(zip(batch, observed, strict=True))
            tick(len(result), len(rows))
    return [result[number] for number in range(len(rows))]


def _batches(
    numbers: Sequence[int], rows: Sequence[EvalRow], trees: Mapping[int, Tree], most: int
) -> list[list[int]]:
    """Return the numbers of the rows in batches of at most so many tokens, or of one row."""
    batches: list[list[int]] = []
    size = most
    for number in numbers:
        length = len(trees[number].ids if trees else rows[number].example.input_ids)
        if size + length > most:
            batches.append([])
            size = 0
        batches[-1].append(number)
        size += length
    return batches


def _plain(plan: Plan, model: Any, rows: Sequence[EvalRow]) -> list[Observation]:
    examples = [row.example for row in rows]
    batch = plan.collate(examples)
    labels = batch.pop("labels")[:, 1:]
    weights = batch.pop("weights", None)
    logits = model(**placed(batch, model.device)).logits
    if labels.is_floating_point():
        losses = heads.row_losses(logits, labels).double().tolist()
        outputs = logits.double().tolist()
        return [
            Observation(row, loss, row.example.weight, 0, outputs=tuple(found))
            for row, loss, found in zip(rows, losses, outputs, strict=True)
        ]
    if logits.ndim == 2:
        chosen = logits.argmax(dim=-1).tolist()
        logits = logits[:, None]
    else:
        chosen = [None] * len(examples)
    loss, right = _token_scores(logits, labels.to(model.device))
    if weights is not None:
        weights = weights[:, 1:].to(loss)
        loss, right = loss * weights, right * weights
    if plan.packing:
        losses, rights = _sums(loss, right, [example.num_targets for example in examples])
    else:
        losses, rights = loss.sum(dim=1).tolist(), right.sum(dim=1).tolist()
    return [
        Observation(row, a, row.example.weight, b, choice)
        for row, a, b, choice in zip(rows, losses, rights, chosen, strict=True)
    ]


def _sums(
    loss: torch.Tensor, right: torch.Tensor, counts: Sequence[int]
) -> tuple[list[float], list[int]]:
    """Return the sums of parts of (1, positions), read from the device once."""
    parts = ([part.sum() for part in each[0].split(counts)] for each in (loss, right))
    losses, rights = (torch.stack(sums).tolist() for sums in parts)
    return losses, rights


def _token_scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per position: negative log-likelihood, 0 if ignored; whether the target is first."""
    parts = [
        (
            functional.cross_entropy(
                part.float().transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none"
            ),
            part.argmax(dim=-1),
        )
        # A few positions at a time: the function copies the logits.
        for part, wanted in zip(
            logits.split(_POSITIONS, dim=1), labels.split(_POSITIONS, dim=1), strict=True
        )
    ]
    loss, first = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    return loss.double(), (first == labels) & (labels != IGNORED)


@dataclass(frozen=True)
class Tree:
    """A prompt and all its labels in one sequence: what they share once, then each label's tail.

    Attributes:
        ids: the shared tokens, then the tails.
        prefix: how many tokens are shared.
        tails: (start, stop) of each label's tail in `ids`.
        places: per label, where in `ids` the next token is one of its targets.
        targets: per label, these targets.
    """

    ids: list[int]
    prefix: int
    tails: list[tuple[int, int]]
    places: list[list[int]]
    targets: list[list[int]]

    @classmethod
    def of(cls, row: EvalRow) -> Tree:
        """Build the tree of a row with options; a label's tail ends before its last target."""
        spans = [
            [place for place, wanted in enumerate(option.supervised) if wanted and place > 0]
            for option in row.options
        ]
        shared = _shared_length([option.input_ids for option in row.options])
        prefix = max(0, min([shared, *(span[0] - 1 for span in spans)]))
        ids = list(row.options[0].input_ids[:prefix])
        tails, places, targets = [], [], []
        for option, span in zip(row.options, spans, strict=True):
            start = len(ids)
            ids += option.input_ids[prefix : span[-1]]
            tails.append((start, len(ids)))
            places.append([start + place - prefix - 1 for place in span])
            targets.append([option.input_ids[place] for place in span])
        return cls(ids, prefix, tails, places, targets)

    def positions(self) -> list[int]:
        """Return each token's position: every tail continues where the shared part ends."""
        result = list(range(self.prefix))
        for start, stop in self.tails:
            result += range(self.prefix, self.prefix + stop - start)
        return result

    def mask(self) -> torch.Tensor:
        """Return (tokens, tokens), true if a token sees another: own tail and shared part."""
        size = len(self.ids)
        mask = torch.ones(size, size, dtype=torch.bool).tril()
        for start, _ in self.tails:
            mask[start:, self.prefix : start] = False
        return mask


def _shared_length(sequences: Sequence[Sequence[int]]) -> int:
    length = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


def _in_trees(
    plan: Plan, model: Any, rows: Sequence[EvalRow], trees: Sequence[Tree]
) -> list[Observation]:
    """Score every label of several rows in one forward pass, each prompt computed once."""
    device = model.device
    starts = list(accumulate((len(tree.ids) for tree in trees), initial=0))
    kept = [
        start + place
        for start, tree in zip(starts[:-1], trees, strict=True)
        for label in tree.places
        for place in label
    ]
    labels = torch.tensor([t for tree in trees for label in tree.targets for t in label])
    further = {}
    if plan.collate.tasks:
        further["task_ids"] = torch.tensor([row.example.task for row in rows], device=device)
    logits = model(
        input_ids=torch.tensor([[token for tree in trees for token in tree.ids]], device=device),
        position_ids=torch.tensor([[p for tree in trees for p in tree.positions()]], device=device),
        cu_seq_lens_q=torch.tensor(starts, dtype=torch.int32, device=device),
        row_lengths=[len(tree.ids) for tree in trees],
        row_masks=[tree.mask().to(device) for tree in trees],
        logits_to_keep=torch.tensor(kept, device=device),
        use_cache=False,
        **further,
    ).logits
    loss, right = _token_scores(logits, labels[None].to(device))
    counts = [len(label) for tree in trees for label in tree.targets]
    losses, rights = _sums(loss, right, counts)
    observed = []
    first = 0
    for row, tree in zip(rows, trees, strict=True):
        of_row = losses[first : first + len(tree.tails)]
        gold = row.gold or 0
        choice = min(range(len(of_row)), key=of_row.__getitem__)
        tokens = len(tree.targets[gold])
        # An option is one answer: its tokens weigh the same.
        share = row.options[gold].weight / row.options[gold].num_targets
        lost, correct = share * of_row[gold], share * rights[first + gold]
        observed.append(Observation(row, lost, share * tokens, correct, choice))
        first += len(tree.tails)
    return observed


def _one_by_one(plan: Plan, model: Any, row: EvalRow) -> Observation:
    """Score every label in a separate sequence, if rows cannot be packed."""
    scored = _plain(plan, model, [replace(row, example=option) for option in row.options])
    choice = min(range(len(scored)), key=lambda number: scored[number].loss_sum)
    return replace(scored[row.gold or 0], row=row, choice=choice)
