"""Losses of heads whose outputs are learned one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (rows,) the mean binary cross-entropy of each row's labels, in nats, as transformers
    computes it for `multi_label_classification`; 0 for rows without any.

    Args:
        logits: (rows, labels).
        labels: (rows, labels) 0 or 1; not numbers in a row that adds nothing.
    """
    wanted = labels.to(logits.device)
    given = ~wanted.isnan().any(dim=1)
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(), wanted.nan_to_num(0.0), reduction="none"
    )
    return losses.mean(dim=1) * given


def head_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Sum the losses of a micro-batch's rows, divided by the rows of the step.

    Args:
        outputs: the model's; logits (rows, labels).
        labels: (rows, 1 + labels); the first column is ignored.
        num_items_in_batch: rows of the whole optimizer step over all processes.
    """
    losses = row_losses(outputs.logits, labels[:, 1:])
    return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
