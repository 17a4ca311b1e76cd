"""Bases in a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.model.loading import make, refused, resolve
from tuner.errors import ModelError
from tuner.model import gguf as model_gguf
from tuner.record import manifest
from tuner.run import build


@pytest.fixture(scope="module")
def gguf_file(bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a GGUF file in float16, written by the gguf package."""
    gguf = pytest.importorskip("gguf")
    folder, path = bases("llama"), tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tensors = load_file(folder / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(512)
    words = tokenizer.convert_ids_to_tokens(range(512))
    specials = set(tokenizer.added_tokens_decoder)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if number in specials else 1 for number in range(512)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "model.layers.": "blk.",
    }
    for name, value in tensors.items():
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
        if heads:  # llama.cpp orders the halves of each head's rotation side by side
            rows, columns = value.shape
            value = value.reshape(heads, 2, rows // heads // 2, columns)
            value = value.transpose(1, 2).reshape(rows, columns)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        kind = torch.float16 if value.ndim > 1 else torch.float32
        writer.add_tensor(name, value.to(kind).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_converted_once(
    gguf_file: Path,
    bases: Callable[..., Path],
    make_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Weights, tokenizer, template and stop token survive; nothing else is left in the cache."""
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    made = make(make_recipe(model={"base": str(gguf_file)}))
    assert (made.base.kind, made.base.name) == ("gguf", "tiny")
    (entry,) = (tmp_path / "cache/bases").iterdir()
    assert made.base.folder == entry
    assert manifest.is_sealed(entry)
    network = build.load(made)
    original = load_file(bases("llama") / "model.safetensors")
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter, original[name], atol=1e-3), name
    tokenizer = AutoTokenizer.from_pretrained(bases("llama"))
    for text in ("The tenant shall pay.", "foo bar <|im_start|>x<|im_end|>"):
        assert made.tokenizer(text).input_ids == tokenizer(text).input_ids
    assert made.tokenizer.chat_template == tokenizer.chat_template
    assert made.tokenizer.eos_token_id == tokenizer.eos_token_id
    monkeypatch.setattr(model_gguf, "convert_gguf", lambda *_: pytest.fail("converted again"))
    assert resolve(str(gguf_file), Path("/")).fingerprint() == made.base.fingerprint()


def test_a_gguf_file_that_is_cut(
    gguf_file: Path,
    make_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    for name, data in (("cut", gguf_file.read_bytes()[:-9000]), ("none", b"GGUF, or not")):
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(data)
        error = refused(make_recipe(model={"base": str(file)}), ModelError)
        assert str(file) in error.why
        assert "\n" not in error.why
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]
