"""A tiny base that learned rows by heart, prepared as `tuner sft` prepares them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.data.test_masks import prepared
from tests.tiny import ROPE
from tuner.data.chat.chat_template import with_defaults

IGNORED = -100


def taught(
    folder: Path, rows: Sequence[dict[str, Any]], tokenizer: Any, stop_ids: Sequence[int] = ()
) -> Path:
    """Save a model that gives the answers of rows into `folder`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = prepared(folder, rows, tokenizer, stop_ids=stop_ids)
    # What most rows have is the default, as in the adapter of a run.
    tokenizer.chat_template = with_defaults(tokenizer.chat_template, data.sent.arguments)
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048}
    config = LlamaConfig(**{**ROPE, **size}, tie_word_embeddings=False)
    config.eos_token_id = [tokenizer.eos_token_id, *stop_ids]
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    _fit(model, data.train)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _fit(model: Any, examples: Sequence[Any]) -> None:
    """All rows in every step, until each token of every answer is the likeliest."""
    longest = max(len(each.input_ids) for each in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, each in enumerate(examples):
        for place, (number, learned) in enumerate(
            zip(each.input_ids, each.supervised, strict=True)
        ):
            ids[row, place] = number
            labels[row, place] = number if learned else IGNORED
    wanted = labels[:, 1:] != IGNORED
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(400):
        found = model(input_ids=ids, labels=labels)
        likeliest = found.logits[:, :-1].argmax(-1)
        if bool((likeliest == labels[:, 1:])[wanted].all()) and found.loss < 0.02:
            return
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"the rows were not learned: {found.loss}")
