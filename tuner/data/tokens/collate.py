"""How the rows of a micro-batch become tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.data.tokens.example import IGNORED

if TYPE_CHECKING:
    import torch

    from tuner.data.tokens.example import Example


@dataclass(frozen=True)
class Collator:
    """How the rows of a micro-batch become tensors.

    Attributes:
        packing: one sequence without padding, or rows padded on the right.
        head: what the rows are for: language, sequence or classes.
        pad_id: fills padded rows.
        start_id: the token that starts an encoder-decoder's output.
        tasks: add `task_ids` (rows,), the data set of each row.
        share: pack the common prefix of a micro-batch's rows only once.
    """

    packing: bool = False
    head: str = "language"
    pad_id: int = 0
    start_id: int = 0
    tasks: bool = False
    share: bool = False

    def __call__(self, rows: Sequence[Example]) -> dict[str, Any]:
        """Return the tensors of a micro-batch; `labels` start with one ignored column, because
        transformers counts labels from the second on; `weights`, of the shape of `labels`, are
        there if a row has some."""
        import torch

        if self.packing:
            batch = collate_packed(rows, self.share)
        elif self.head == "language":
            batch = collate_padded(rows, self.pad_id)
        else:
            batch = self._read(rows)
        if self.tasks:
            batch["task_ids"] = torch.tensor([row.task for row in rows])
        return batch

    def _read(self, rows: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return inputs: input_ids and attention_mask (rows, tokens); and targets: the class in
        labels (rows, 2), what each output should be in labels (rows, 1 + outputs), or
        decoder_input_ids (rows, written) and labels (rows, 1 + written)."""
        import torch

        batch = collate_read([row.input_ids for row in rows], self.pad_id)
        if self.head == "classes":
            if width := max(len(row.goals) for row in rows):
                nothing = (math.nan,) * width
                goals = [[math.nan, *(row.goals or nothing)] for row in rows]
                return {**batch, "labels": torch.tensor(goals)}
            classes = [[IGNORED, IGNORED if row.label is None else row.label] for row in rows]
            return {**batch, "labels": torch.tensor(classes)}
        written = [[self.start_id, *row.target[:-1]] for row in rows]
        wanted = _padded([[IGNORED, *row.target] for row in rows], IGNORED)
        return {
            **batch,
            "decoder_input_ids": torch.from_numpy(_padded(written, self.pad_id)),
            "labels": torch.from_numpy(wanted),
        }


def collate_read(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask (rows, tokens), padded on the right."""
    import torch

    mask = _padded([[1] * len(ids) for ids in rows], 0)
    return {
        "input_ids": torch.from_numpy(_padded(rows, pad_id)),
        "attention_mask": torch.from_numpy(mask),
    }


def collate_prompts(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask (rows, tokens), padded on the left, of bare prompts."""
    backwards = collate_read([row[::-1] for row in rows], pad_id)
    return {name: tensor.flip(1) for name, tensor in backwards.items()}


def _padded(rows: Sequence[Any], filler: int) -> np.ndarray:
    """(rows, longest) int64, filled up on the right."""
    result = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for number, row in enumerate(rows):
        result[number, : len(row)] = row
    return result


def shared_prefix(rows: Sequence[Example]) -> int:
    """Return how many tokens all rows begin with, up to the first that has a target next.

    A template's opening, such as the system turn, is the same in every row; so a causal model
    computes the same for it in every row, and its gradients add up to the same sum.
    """
    if len(rows) < 2:
        return 0
    count = min(_first_target(row) for row in rows) - 1
    first = rows[0].input_ids
    for row in rows[1:]:
        count = next((n for n in range(count) if row.input_ids[n] != first[n]), count)
    return max(count, 0)


def _first_target(row: Example) -> int:
    """The place of the first supervised token that has one before it; else of the last token."""
    last = len(row.input_ids) - 1
    return next((place for place in range(1, last) if row.supervised[place]), last)


def collate_packed(rows: Sequence[Example], share: bool = False) -> dict[str, Any]:
    """Pack all the rows into one sequence, without padding.

    Args:
        rows: the micro-batch's.
        share: keep the common prefix of the rows in the first row only.

    Returns:
        input_ids and position_ids (1, tokens), positions restarting with each row;
        cu_seq_lens_q (rows + 1,), where rows begin and end, and row_lengths, the same in numbers;
        logits_to_keep (targets,), the positions whose next token is a target;
        labels (1, 1 + targets), the targets after one ignored column, because transformers counts
        labels from the second on;
        and, where tokens are shared, `shared_prefix`, their number, and cu_seq_lens_k, where rows
        with these tokens begin and end (see `attention`).
    """
    import torch

    shared = shared_prefix(rows) if share else 0
    starts = [0, *[shared] * (len(rows) - 1)]
    lengths = [len(row.input_ids) - start for row, start in zip(rows, starts, strict=True)]
    ends = np.cumsum([0, *lengths])
    cut = list(zip(rows, starts, strict=True))
    ids = np.concatenate([np.asarray(row.input_ids[start:]) for row, start in cut])
    places = np.concatenate([np.arange(start, len(row.input_ids)) for row, start in cut])
    supervised = np.concatenate([np.asarray(row.supervised[start:], bool) for row, start in cut])
    supervised[ends[:-1]] = False
    targets = np.flatnonzero(supervised)
    batch: dict[str, Any] = {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(places)[None],
        "cu_seq_lens_q": torch.from_numpy(ends).to(torch.int32),
        "row_lengths": lengths,
        "logits_to_keep": torch.from_numpy(targets - 1),
        "labels": torch.from_numpy(np.concatenate([[IGNORED], ids[targets]]))[None],
    }
    if any(row.weights for row in rows):
        weights = np.concatenate([_weights(row)[start:] for row, start in cut])[targets]
        batch["weights"] = torch.from_numpy(np.concatenate([[1.0], weights]))[None]
    if shared:
        whole = np.cumsum([0, *(len(row.input_ids) for row in rows)])
        batch["cu_seq_lens_k"] = torch.from_numpy(whole).to(torch.int32)
        batch["shared_prefix"] = shared
    return batch


def placed(batch: Mapping[str, Any], device: Any) -> dict[str, Any]:
    """Return a micro-batch with its tensors on a device; its numbers stay numbers."""
    return {
        name: value.to(device) if hasattr(value, "device") else value
        for name, value in batch.items()
    }


def collate_padded(rows: Sequence[Example], pad_id: int = 0) -> dict[str, torch.Tensor]:
    """Pad rows on the right to the longest.

    Returns:
        input_ids and attention_mask (rows, tokens); logits_to_keep, the positions at which any row
        has a target next; labels (rows, 1 + positions), ignored where a row has none.
    """
    import torch

    wanted = [np.where(row.supervised, row.input_ids, IGNORED) for row in rows]
    labels = _padded(wanted, IGNORED)
    labels[:, 0] = IGNORED
    targets = np.flatnonzero((labels != IGNORED).any(axis=0))
    kept = np.concatenate([np.full((len(rows), 1), IGNORED), labels[:, targets]], axis=1)
    batch = {
        **collate_read([row.input_ids for row in rows], pad_id),
        "logits_to_keep": torch.from_numpy(targets - 1),
        "labels": torch.from_numpy(kept),
    }
    if any(row.weights for row in rows):
        weights = np.ones(kept.shape)
        for number, row in enumerate(rows):
            inside = targets < len(row.input_ids)
            weights[number, 1:][inside] = _weights(row)[targets[inside]]
        batch["weights"] = torch.from_numpy(weights)
    return batch


def _weights(row: Example) -> np.ndarray:
    """(tokens,) float64, what each weighs in the loss if it is learned."""
    return np.asarray(row.weights) if row.weights else np.ones(len(row.input_ids))
