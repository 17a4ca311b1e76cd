"""The linear layers and parameter counts of a base, without loading its weights.

Read from the safetensors headers for families whose stored names are their module names; built on
torch's meta device from config.json for all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from tuner.base import Base
from tuner.errors import ModelError, first_line
from tuner.methods import full, lora
from tuner.methods.full import StagedOptions
from tuner.methods.lora import LoraOptions
from tuner.recipe import Recipe

# Their stored tensor names are the names of the modules, and every stored matrix outside embedding
# and head is a linear layer. GPT-2 stores its matrices (inputs, outputs), the others transposed.
_PLAIN_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2"})
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_NOT_LINEAR = ("embed_tokens.", "lm_head.", "wte.", "wpe.")


@dataclass(frozen=True)
class Skeleton:
    """Linear layers as name -> (inputs, outputs), and every parameter as name -> size."""

    linears: dict[str, tuple[int, int]]
    sizes: dict[str, int]
    tied: bool

    @cached_property
    def total(self) -> int:
        """Parameters of the base, tied matrices once."""
        return sum(self.sizes.values())

    def trainable(self, recipe: Recipe, chosen: list[str]) -> int:
        """Parameters that a recipe trains at most at one time, exactly."""
        method = recipe.method
        if isinstance(method, LoraOptions):
            return sum(lora.parameters(method, self.linears[name]) for name in chosen)
        if isinstance(method, StagedOptions):
            return max(self._weights(stage.train) for stage in method.stages)
        return self._weights("all" if method.name == "full" else "last_layer")

    def _weights(self, which: str) -> int:
        if which == "all":
            return self.total
        return sum(self.sizes[name] for name in full.last_layer(self.sizes, self.tied))


def read(base: Base) -> Skeleton:
    """The skeleton of a base.

    Raises:
        ModelError: config.json names no causal language model that transformers knows.
    """
    shapes = base.shapes() if base.config.get("model_type") in _PLAIN_FAMILIES else {}
    return _from_shapes(base, shapes) if shapes else _from_config(base)


def _tied(base: Base) -> bool:
    # GPT-2 ties by default and does not store the key.
    default = base.config.get("model_type") == "gpt2"
    return bool(base.config.get("tie_word_embeddings", default))


def _from_shapes(base: Base, shapes: dict[str, tuple[int, ...]]) -> Skeleton:
    tied = _tied(base)
    transposed = base.config["model_type"] == "gpt2"
    if transposed and "wte.weight" in shapes:
        # GPT-2 as it lies on the Hub was saved without its head, and without the prefix.
        shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    kept = {
        name: shape
        for name, shape in shapes.items()
        if not (tied and name.startswith("lm_head.")) and not name.endswith(_BUFFERS)
    }
    linears = {}
    for name, shape in kept.items():
        if len(shape) == 2 and name.endswith(".weight"):
            module = name.removesuffix(".weight")
            if not (module + ".").endswith(_NOT_LINEAR):
                linears[module] = shape if transposed else (shape[1], shape[0])
    return Skeleton(linears, {name: math.prod(shape) for name, shape in kept.items()}, tied)


def _from_config(base: Base) -> Skeleton:
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    try:
        config = AutoConfig.from_pretrained(base.folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (
        ValueError,
        KeyError,
        OSError,
        AttributeError,
        TypeError,
        ZeroDivisionError,
        StrictDataclassError,
    ) as error:
        raise ModelError(
            f"the base model '{base.name}' is no causal language model that transformers knows",
            f"{base.folder / 'config.json'}: {first_line(error)}",
            "use a decoder-only base such as Llama, Qwen, Mistral or GPT-2",
        ) from error
    head = model.get_output_embeddings()
    linears = {}
    for name, module in model.named_modules():
        if module is head:
            continue
        if isinstance(module, torch.nn.Linear):
            linears[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            linears[name] = (module.nx, module.nf)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Skeleton(linears, sizes, bool(getattr(config, "tie_word_embeddings", False)))
