"""Tiny random bases of many families, made from their configs: what loads, and what fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.tiny import ROPE
from tests.tokenizers import make_tokenizer

_OLD: dict[str, Any] = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4}
_LINEAR: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_HEAD = {**ROPE, "head_dim": 16}
_WINDOW = {**_HEAD, "sliding_window": 8}
_MIXED = ["sliding_attention", "full_attention"]
_EYES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32}
_GEMMA3N = {**_WINDOW, "laurel_rank": 8, "activation_sparsity_pattern": [0.0] * 4}
_GEMMA3N |= {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": _MIXED * 2}
_GEMMA3N |= {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 512}
_MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
_MLA |= {"v_head_dim": 16, "num_key_value_heads": 4, "first_k_dense_replace": 2}
_JAMBA = {"num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8}
_JAMBA |= {"attn_layer_period": 2, "attn_layer_offset": 1}
_JAMBA |= {"expert_layer_period": 2, "expert_layer_offset": 1}
_FALCON_H1 = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16}
_ZAMBA2 = {"mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 8}
_ZAMBA2 |= {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2}
_NEMOTRON = {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1}
_NEMOTRON |= {"layers_block_type": ["mamba", "attention"], "head_dim": 16}
_GRANITE = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 8, "mamba_n_groups": 1}
_GRANITE |= {"shared_intermediate_size": 32, "layer_types": ["mamba", "attention"]}
_NEXT = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
_NEXT |= {"shared_expert_intermediate_size": 32}
_MOE = {"num_local_experts": 2, "num_experts_per_tok": 1}

# Config class and options, by name.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("Gemma2Config", {**_WINDOW, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3TextConfig", {**_WINDOW, "query_pre_attn_scalar": 16}),
    "gemma3n": ("Gemma3nTextConfig", _GEMMA3N),
    "gptoss": ("GptOssConfig", {**_WINDOW, **_MOE}),
    "gptj": ("GPTJConfig", {**_OLD, "n_positions": 512, "rotary_dim": 8}),
    "gptneo": (
        "GPTNeoConfig",
        {
            **{"vocab_size": 512, "hidden_size": 64, "num_layers": 2, "num_heads": 4},
            **{"attention_types": [[["global", "local"], 1]], "window_size": 8},
            "max_position_embeddings": 512,
        },
    ),
    "bloom": ("BloomConfig", {"vocab_size": 512, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mpt": ("MptConfig", {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 4}),
    "codegen": ("CodeGenConfig", {**_OLD, "n_positions": 512, "rotary_dim": 8}),
    "mamba": (
        "MambaConfig",
        {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    ),
    "mamba2": (
        "Mamba2Config",
        {
            **{"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
            **{"num_heads": 4, "head_dim": 32, "n_groups": 1},
        },
    ),
    "rwkv": (
        "RwkvConfig",
        {
            **{"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2},
            **{"attention_hidden_size": 64, "intermediate_size": 96, "context_length": 512},
        },
    ),
    "falcon": (
        "FalconConfig",
        {
            **{"vocab_size": 512, "hidden_size": 64},
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    ),
    "falcon_h1": ("FalconH1Config", {**_HEAD, **_FALCON_H1}),
    "granite hybrid": ("GraniteMoeHybridConfig", {**ROPE, **_MOE, **_GRANITE}),
    "jamba": ("JambaConfig", {**ROPE, **_JAMBA}),
    "nemotron": ("NemotronHConfig", {**ROPE, **_NEMOTRON}),
    "zamba2": ("Zamba2Config", {**ROPE, **_ZAMBA2}),
    "llama4": (
        "Llama4TextConfig",
        {**_HEAD, **_MOE, "intermediate_size_mlp": 96, "attention_chunk_size": 8},
    ),
    "lfm2": ("Lfm2Config", {**ROPE, "layer_types": ["conv", "full_attention"]}),
    "qwen35": (
        "Qwen3_5TextConfig",
        {**_HEAD, **_LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "qwen3 next": (
        "Qwen3NextConfig",
        {
            **_HEAD,
            **_LINEAR,
            **_NEXT,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "deepseek": ("DeepseekV3Config", {**ROPE, **_MLA}),
    "phi3": ("Phi3Config", {**ROPE, "pad_token_id": 0, "sliding_window": 8}),
    "xlnet": ("XLNetConfig", {"vocab_size": 512, "d_model": 64, "n_layer": 1, "n_head": 4}),
    "gemma3 with images": (
        "Gemma3Config",
        {
            "text_config": {**_WINDOW, "query_pre_attn_scalar": 16},
            "vision_config": {
                **_EYES,
                **{"num_hidden_layers": 1, "num_attention_heads": 2},
                **{"image_size": 28, "patch_size": 14},
            },
            **{"mm_tokens_per_image": 4, "boi_token_index": 5, "eoi_token_index": 6},
            "image_token_index": 7,
        },
    ),
    "mistral3 with images": (
        "Mistral3Config",
        {
            "text_config": {**_HEAD, "model_type": "mistral"},
            "vision_config": {
                **_EYES,
                **{"model_type": "pixtral", "num_hidden_layers": 1, "num_attention_heads": 2},
                **{"image_size": 28, "patch_size": 14},
            },
            "image_token_index": 7,
        },
    ),
    "qwen25 with images": (
        "Qwen2_5_VLConfig",
        {
            "text_config": {
                **ROPE,
                "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
            },
            "vision_config": {**_EYES, "depth": 1, "num_heads": 2, "out_hidden_size": 64},
            **{"image_token_id": 5, "video_token_id": 6},
            **{"vision_start_token_id": 7, "vision_end_token_id": 8},
        },
    ),
    "qwen35 with images": (
        "Qwen3_5Config",
        {
            "text_config": {
                **_HEAD,
                **_LINEAR,
                "layer_types": ["linear_attention", "full_attention"],
            },
            "vision_config": {**_EYES, "depth": 1, "num_heads": 2, "out_hidden_size": 64},
            **{"image_token_id": 5, "video_token_id": 6},
            **{"vision_start_token_id": 7, "vision_end_token_id": 8},
        },
    ),
}


def make_family(name: str, folder: Path) -> Path:
    """Save a random base of a family with a ChatML tokenizer into `folder`, and return it."""
    kind, options = FAMILIES[name]
    tokens = make_tokenizer("chatml")
    config = getattr(transformers, kind)(**options)
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        for token in ("eos", "pad", "bos"):
            setattr(part, f"{token}_token_id", getattr(tokens, f"{token}_token_id"))
    torch.manual_seed(0)
    head = "ImageTextToText" if "images" in name else "CausalLM"
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    for key, parameter in model.named_parameters():
        if key.endswith("correct_output_scale"):
            # Zeros would cut Gemma-3n's per-layer inputs off.
            torch.nn.init.ones_(parameter)
    model.tie_weights()
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
