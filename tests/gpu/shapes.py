"""The models that speed is measured on: shapes, random weights, rows of exact lengths."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tokenizers import make_tokenizer
from tuner.plan.plan import Plan

# On the fake GPU each shape becomes this, and each row a twentieth of itself.
_TINY = {"hidden": 64, "inner": 96, "layers": 2, "heads": 4, "groups": 2, "vocabulary": 512}
_SHORTER = 32


@dataclass(frozen=True)
class Shape:
    """The sizes of a model like Llama."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    head: int
    vocabulary: int = 128_256
    tied: bool = False

    def config(self) -> LlamaConfig:
        """Return the configuration, with the tokens of `make_tokenizer`."""
        tokens = make_tokenizer("chatml")
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            head_dim=self.head,
            vocab_size=self.vocabulary,
            max_position_embeddings=131_072,
            tie_word_embeddings=self.tied,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
            bos_token_id=tokens.bos_token_id,
            dtype="bfloat16",
        )


EIGHT = Shape("8B", 4096, 14336, 32, 32, 8, 128)
ONE = Shape("1B", 2048, 8192, 16, 32, 8, 64, tied=True)


def fitting(shape: Shape, fake: bool) -> Shape:
    """Return the shape as it is run: a tiny one on the fake GPU."""
    return replace(shape, **_TINY, head=16) if fake else shape


def length(tokens: int, fake: bool) -> int:
    """Return the tokens of a row as it is run."""
    return max(24, tokens // _SHORTER) if fake else tokens


def empty_model(config: LlamaConfig, attention: str) -> Any:
    """Return the model without weights, its buffers in main memory."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return LlamaForCausalLM._from_config(
            config, attn_implementation=attention, dtype=torch.bfloat16
        )


def random_weights(config: LlamaConfig, device: str) -> dict[str, torch.Tensor]:
    """Return weights in bfloat16 by name, made on the device; norms are 1."""
    torch.manual_seed(7)
    return {
        name: torch.empty(each.shape, dtype=torch.bfloat16, device=device).normal_(0.0, 0.02)
        if each.ndim > 1
        else torch.ones(each.shape, dtype=torch.bfloat16, device=device)
        for name, each in empty_model(config, "sdpa").named_parameters()
    }


def model_of(config: LlamaConfig, weights: dict[str, torch.Tensor], attention: str) -> Any:
    """Return a model around the weights, which are not copied."""
    model = empty_model(config, attention)
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie_weights()
    model.requires_grad_(False)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(next(iter(weights.values())).device)
    return model.eval()


def write_base(shape: Shape, folder: Path) -> Path:
    """Write a base that can be planned for: config, tokenizer, and a header of absent weights."""
    config = shape.config()
    folder.mkdir(parents=True)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    make_tokenizer("chatml").save_pretrained(folder)
    header, place = {}, 0
    for name, each in empty_model(config, "sdpa").named_parameters():
        end = place + 2 * math.prod(each.shape)
        header[name] = {"dtype": "BF16", "shape": list(each.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        # A hole: no byte of it takes room on the disk.
        file.truncate(8 + len(text) + place)
    return folder


def rows_of(lengths: Sequence[int]) -> list[dict[str, str]]:
    """Return rows of about these many tokens, a quarter of each the prompt."""
    tokens = make_tokenizer("chatml")
    step = len(tokens(" rent" * 64).input_ids) - len(tokens(" rent" * 32).input_ids)
    per_word = step / 32
    made = []
    for number, wanted in enumerate(lengths):
        words = max(4, int((wanted - 16) / per_word))
        prompt = words // 4
        made.append(
            {"prompt": f"{number}" + " rent" * prompt, "completion": " rent" * (words - prompt)}
        )
    return made


def steps_of(plan: Plan) -> list[list[Any]]:
    """Return the rows of each step of a plan, in the order of the run."""
    from tuner.tasks import sft

    stage = plan.stages[0]
    stream = sft.stream_of(plan, stage, stage.start)
    return [stream.step(number) for number in range(stage.steps)]


def in_four_bits(model: Any) -> Any:
    """Quantize the linear layers of the decoder to NF4, as transformers does when it loads."""
    import bitsandbytes
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    for parent in list(model.model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, torch.nn.Linear):
                continue
            made = bitsandbytes.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                device="meta",
            )
            made.weight = bitsandbytes.nn.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", module=made
            ).to("cuda")
            setattr(parent, name, made)
    model.is_loaded_in_4bit = True
    model.hf_quantizer = AutoHfQuantizer.from_config(config)
    model.quantization_method = model.hf_quantizer.quantization_config.quant_method
    model.config.quantization_config = model.hf_quantizer.quantization_config
    return model
