"""Tiny random models of the families that the tests cover, saved as users would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.tokenizers import make_tokenizer

VOCABULARY = 512
_ROPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def _config(kind: str) -> Any:
    if kind == "llama":
        return LlamaConfig(**_ROPE, tie_word_embeddings=False)
    if kind == "llama-tied":
        return LlamaConfig(**_ROPE, tie_word_embeddings=True)
    if kind == "qwen2":
        return Qwen2Config(**_ROPE, tie_word_embeddings=False)
    if kind == "mixtral":
        return MixtralConfig(**_ROPE, num_local_experts=4, num_experts_per_tok=2)
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=512,
        n_inner=96,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


_CLASSES: dict[str, Any] = {
    "llama": LlamaForCausalLM,
    "llama-tied": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "mixtral": MixtralForCausalLM,
    "gpt2": GPT2LMHeadModel,
}
KINDS = tuple(_CLASSES)


def make_model(kind: str, folder: Path, tokenizer: str = "chatml", seed: int = 0) -> Path:
    """Save a random model of a family with its tokenizer into `folder`, and return it."""
    tokens = make_tokenizer(tokenizer)
    config = _config(kind)
    config.eos_token_id = tokens.eos_token_id
    config.pad_token_id = tokens.pad_token_id
    config.bos_token_id = tokens.bos_token_id
    torch.manual_seed(seed)
    model = _CLASSES[kind](config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    model.tie_weights()
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
