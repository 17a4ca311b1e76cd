"""Tiny random models of the families that the tests cover, saved as users would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.tokenizers import make_tokenizer

VOCABULARY = 512
ROPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


ENCODERS = ("bert", "roberta")


def _config(kind: str) -> Any:
    if kind == "llama":
        return LlamaConfig(**ROPE, tie_word_embeddings=False)
    if kind == "llama-tied":
        return LlamaConfig(**ROPE, tie_word_embeddings=True)
    if kind == "qwen2":
        return Qwen2Config(**ROPE, tie_word_embeddings=False)
    if kind == "mixtral":
        return MixtralConfig(**ROPE, num_local_experts=4, num_experts_per_tok=2)
    if kind == "gemma":
        return GemmaConfig(**ROPE, head_dim=16)
    if kind == "opt":
        return OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            ffn_dim=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            word_embed_proj_dim=64,
            dropout=0.0,
        )
    if kind == "t5":
        return T5Config(
            vocab_size=VOCABULARY,
            d_model=64,
            d_kv=16,
            d_ff=96,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    if kind == "bart":
        return BartConfig(
            vocab_size=VOCABULARY,
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            max_position_embeddings=512,
            dropout=0.0,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        )
    if kind in ENCODERS:
        made = {"bert": BertConfig, "roberta": RobertaConfig}[kind]
        return made(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=514,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
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
# Decoders whose packed rows are not proven isolated.
_CLASSES |= {"opt": OPTForCausalLM, "gemma": GemmaForCausalLM}
SEQ2SEQ = ("t5", "bart")
_CLASSES |= {"t5": T5ForConditionalGeneration, "bart": BartForConditionalGeneration}
_CLASSES |= {"bert": BertForMaskedLM, "roberta": RobertaForMaskedLM}
EVERY = tuple(_CLASSES)


def make_model(kind: str, folder: Path, tokenizer: str = "chatml", seed: int = 0) -> Path:
    """Save a random model of a family with its tokenizer into `folder`, and return it."""
    own = {**dict.fromkeys(ENCODERS, "encoder"), **dict.fromkeys(SEQ2SEQ, "seq2seq")}
    tokens = make_tokenizer(own.get(kind, tokenizer))
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
