"""Noise on the embeddings while a model is trained (NEFTune, Jain et al. 2023).

Each number of a token's embedding gets one from the uniform distribution of +- alpha /
sqrt(tokens * size), where the tokens are those of its own row: padding does not count, and rows
that are packed into one sequence count each for itself. transformers' own hook takes the tensor's
length for the row's, and scales the noise of packed rows as if they were one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def add(model: Any, alpha: float) -> None:
    """Let a model add noise to its embeddings in training mode.

    The numbers are drawn from torch's generator, which every step seeds: a step repeats, and a
    resumed run has the noise of one that never stopped.

    Args:
        model: computes from `input_ids` with an `attention_mask` of padded rows, or with
            `row_lengths` of packed ones.
        alpha: of the paper; 5, 10 and 15 there.
    """
    spread: list[torch.Tensor] = []

    def see(module: Any, inputs: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        spread[:] = [_tokens(given).sqrt().reciprocal()] if module.training else []

    def disturb(module: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        if not spread or not module.training or output.shape[:2] != spread[0].shape:
            return None
        most = alpha / output.shape[-1] ** 0.5 * spread[0].to(output)[..., None]
        disturbed: torch.Tensor = output + torch.empty_like(output).uniform_(-1, 1) * most
        return disturbed

    model.register_forward_pre_hook(see, with_kwargs=True)
    model.get_input_embeddings().register_forward_hook(disturb)


def _tokens(given: Mapping[str, Any]) -> torch.Tensor:
    """Return (rows, positions) float32, the tokens of the row that a position belongs to."""
    if "row_lengths" in given:
        lengths = torch.tensor(given["row_lengths"])
        return lengths.repeat_interleave(lengths)[None].float()
    mask: torch.Tensor = given["attention_mask"]
    # Padding has noise, too, which nothing reads.
    return mask.sum(dim=1, keepdim=True).expand(mask.shape).float()
