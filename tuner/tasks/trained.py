"""Trained: a live model and where its training started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Trained:
    """A live model and where its training started.

    Attributes:
        model: the model in training; replaced by the merged model when that is exported.
        start: sha256 of every tensor that any stage trains, before the first step.
        start_state: the adapter's tensors before the first step, if the export needs them.
        judge: scores answers, if a policy learns from rewards.
        measured: `scores` of the held-out rows, before and after, and `evaluation`, as in the
            record; shown in the card of an artefact.
        unmoved: names of trainable tensors that still have their initial values.
    """

    model: Any
    start: dict[str, str]
    start_state: dict[str, torch.Tensor] = field(default_factory=dict)
    unmoved: list[str] = field(default_factory=list)
    judge: Any = None
    measured: Mapping[str, Any] = field(default_factory=dict)


def trainable(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the trainable tensors of a model, each with its name."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
