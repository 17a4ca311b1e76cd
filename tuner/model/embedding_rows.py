"""Embedding rows for tokens that a base does not have, only in memory: its files do not change.

An adapter that was trained with new tokens has their rows (peft's trainable tokens) and their ids;
so the base must get these rows before the adapter is loaded on it. All code here does that through
`load_adapter_onto`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel

from tuner.model import tokenizer
from tuner.model.kernels import fused_boft


def load_adapter_onto(base: Any, folder: Path | str, config: Any = None, **arguments: Any) -> Any:
    """Load a saved adapter on a loaded base, with the rows of the adapter's tokens.

    Args:
        base: a plain transformers model; also gets the rows.
        folder: peft's files.
        config: peft's configuration; None: read it from there.
        arguments: further ones for `PeftModel.from_pretrained`.
    """
    config = config or PeftConfig.from_pretrained(str(folder))
    grow(base, needed(config))
    model = PeftModel.from_pretrained(base, str(folder), config=config, **arguments)
    fused_boft.hold(model)
    return model


def needed(config: Any) -> int:
    """Return the embedding rows that an adapter with this peft configuration needs, or 0."""
    return tokenizer.rows_for(0, tokenizer.trained_ids(asdict(config)))


def grow(network: Any, rows: int) -> None:
    """Replace embedding and head of a model by larger ones of at least this many rows.

    Each new row is the mean of all old ones (Hewitt 2021), which leaves the probabilities of the
    old tokens nearly unchanged. The replaced modules are not written to.

    Args:
        network: a plain transformers model; its config gets the number, tied matrices stay tied.
        rows: nothing happens where the model has as many.
    """
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if rows <= embedding.weight.shape[0]:
        return
    longer = {id(embedding.weight): _longer(embedding.weight, rows)}
    network.set_input_embeddings(_copy(embedding, longer, rows))
    if head is not None:
        for tensor in (head.weight, head.bias) if _bias(head) else (head.weight,):
            longer.setdefault(id(tensor), _longer(tensor, rows))
        network.set_output_embeddings(_copy(head, longer, rows))
    network.config.get_text_config().vocab_size = rows


def _bias(head: Any) -> bool:
    return isinstance(head, torch.nn.Linear) and head.bias is not None


@torch.no_grad()
def _longer(tensor: torch.Tensor, rows: int) -> torch.nn.Parameter:
    # In float64, so that the number of threads does not show in the rounded sum.
    mean = tensor.mean(0, keepdim=True, dtype=torch.float64).to(tensor.dtype)
    further = mean.expand(rows - len(tensor), *tensor.shape[1:])
    return torch.nn.Parameter(torch.cat([tensor, further]), requires_grad=tensor.requires_grad)


def _copy(module: Any, parameters: dict[int, torch.nn.Parameter], rows: int) -> Any:
    """Copy a module, with these parameters in place of those with these ids."""
    made = copy.deepcopy(module, dict(parameters))
    if isinstance(made, torch.nn.Embedding):
        made.num_embeddings = rows
    else:
        made.out_features = rows
    return made


def matrices(network: Any) -> tuple[str, ...]:
    """Return the names of the modules with a row for every token: embedding, and untied head."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    apart = head is not None and head.weight is not embedding.weight
    wanted = [embedding, head] if apart else [embedding]
    names = {id(module): name for name, module in network.named_modules()}
    return tuple(names[id(module)] for module in wanted)


def train(network: Any, config: Any, ids: Sequence[int]) -> None:
    """Make a LoRA train the rows of some tokens, too.

    Args:
        network: the base, with its rows.
        config: peft's configuration, which gets their names.
        ids: of the tokens; empty: nothing changes.
    """
    if ids:
        config.trainable_token_indices = {name: list(ids) for name in matrices(network)}
