"""The layers and parameter counts of a base, without loading its weights.

Read from the safetensors headers for families whose stored names are their module names; built on
torch's meta device from config.json for all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tuner.errors import ModelError, first_line
from tuner.methods import full, lora
from tuner.methods.targets import ends
from tuner.model.base import Base
from tuner.model.heads import HEADS, is_new, named, new_modules

# Their stored tensor names are the names of the modules, and every stored matrix outside embedding
# and head is a linear layer. GPT-2 stores its matrices (inputs, outputs), the others transposed.
PLAIN_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2"})
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_EMBEDDINGS, _HEADS = ("embed_tokens.", "wte.", "wpe."), ("lm_head.", "score.")
_NOT_LINEAR = (*_EMBEDDINGS, *_HEADS)
# The layer of a sequence classifier, and how many labels it has if config.json does not say.
SCORE, _LABELS = "score.weight", 2
# The matrices with a row for every token.
WORDS = (".embed_tokens.weight", ".lm_head.weight", ".wte.weight")


@dataclass(frozen=True)
class Weight:
    """A tensor that is trained: its shape, and whether it is an embedding, a head, or inner."""

    shape: tuple[int, ...]
    kind: str = "inner"


@dataclass(frozen=True)
class Skeleton:
    """What a base is made of.

    Attributes:
        linears: linear layers except the head, as name -> (inputs, outputs).
        norms: names of the normalisation layers.
        shapes: every parameter as name -> shape.
        experts: parameters with the fused weights of a mixture of experts.
        tied: whether the head is the embedding matrix.
        kinds: parameters that are an embedding or a head, as name -> which.
        new_modules: parts of the head that the base has no weights for.
        unfit: layers that no adapter works on, as name -> why.
        attention: transformers' own choice for it: sdpa, or eager where it has no other.
    """

    linears: dict[str, tuple[int, int]]
    norms: list[str]
    shapes: dict[str, tuple[int, ...]]
    experts: list[str]
    tied: bool
    kinds: dict[str, str]
    new_modules: tuple[str, ...] = ()
    unfit: dict[str, str] = field(default_factory=dict)
    attention: str = "sdpa"

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Every parameter as name -> size."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    @cached_property
    def total(self) -> int:
        """Parameters of the base, tied matrices once."""
        return sum(self.sizes.values())

    @property
    def unquantized(self) -> int:
        """Parameters that stay as they are in a quantized base: all outside its linear layers."""
        return self.total - sum(inputs * outputs for inputs, outputs in self.linears.values())

    def weights(self, which: str) -> dict[str, Weight]:
        """Return the parameters of the base that `which` = all or last_layer trains, by name."""
        names = self.shapes if which == "all" else full.last_layer(self.shapes, self.tied)
        return {
            name: Weight(self.shapes[name], self.kinds.get(name, "inner")) for name in sorted(names)
        }


def read(base: Base, head: str, rows: int = 0) -> Skeleton:
    """Read the skeleton of a base.

    Args:
        base: the base.
        head: what it is loaded with, by `heads.HEADS`.
        rows: that its embeddings get at least.

    Raises:
        ModelError: transformers knows no such model as in config.json.
    """
    known = head == "language" or HEADS[head].added
    plain = known and base.config.get("model_type") in PLAIN_FAMILIES
    shapes = base.shapes() if plain else {}
    if not shapes:
        return _from_model(empty(base, head, rows), base)
    if HEADS[head].added:
        shapes = _with_score(base, shapes)
    for name, shape in shapes.items():
        if f".{name}".endswith(WORDS):
            shapes[name] = (max(shape[0], rows), *shape[1:])
    return _from_shapes(base, shapes)


def _with_score(base: Base, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes with the linear layer that a sequence classifier of these families has in
    place of the language model's head."""
    config = base.config
    labels = len(config.get("id2label") or ()) or config.get("num_labels") or _LABELS
    words = next(shape for name, shape in shapes.items() if f".{name}".endswith(WORDS))
    if "wte.weight" in shapes:
        shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    kept = {name: shape for name, shape in shapes.items() if not name.startswith("lm_head.")}
    return {**kept, SCORE: (int(labels), words[1])}


def _from_shapes(base: Base, shapes: dict[str, tuple[int, ...]]) -> Skeleton:
    tied = base.tied
    transposed = base.config["model_type"] == "gpt2"
    if transposed and "wte.weight" in shapes:
        # GPT-2 on the Hub was saved without its head, and without the prefix.
        shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    kept = {
        name: shape
        for name, shape in shapes.items()
        if not (tied and name.startswith("lm_head.")) and not name.endswith(_BUFFERS)
    }
    linears, norms = {}, []
    for name, shape in kept.items():
        if not name.endswith(".weight"):
            continue
        module = name.removesuffix(".weight")
        if len(shape) == 1:
            norms.append(module)
        elif len(shape) == 2 and not (module + ".").endswith(_NOT_LINEAR):
            linears[module] = shape if transposed else (shape[1], shape[0])
    kinds = {name: "embedding" for name in kept if _ends_in(name, _EMBEDDINGS)}
    kinds |= {name: "head" for name in kept if _ends_in(name, _HEADS)}
    return Skeleton(linears, norms, kept, [], tied, kinds)


def _ends_in(name: str, modules: tuple[str, ...]) -> bool:
    return f"{name.rpartition('.')[0]}.".endswith(modules)


def empty(
    base: Base,
    head: str,
    rows: int = 0,
    configured: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """Build the base with transformers from config.json, on torch's meta device.

    Args:
        base: the base.
        head: what it is loaded with, by `heads.HEADS`.
        rows: that its embeddings get at least.
        configured: values in place of those of config.json.
        arguments: further ones for transformers' `from_config`.

    Raises:
        ModelError: transformers knows no such model as in config.json.
    """
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = transformers.AutoConfig.from_pretrained(
            base.folder,
            local_files_only=True,
            trust_remote_code=base.trusted,
            **(configured or {}),
        )
        with torch.device("meta"):
            model = getattr(transformers, named(head, base.config).auto_class).from_config(
                config, trust_remote_code=base.trusted, **arguments
            )
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
            f"transformers knows no {HEADS[head].noun} for the base model '{base.name}'",
            f"{base.folder / 'config.json'}: {first_line(error)}",
            HEADS[head].advice,
        ) from error
    if rows:
        from tuner.model import embedding_rows

        embedding_rows.grow(model, rows)
    return model


def _from_model(model: Any, base: Base) -> Skeleton:
    import torch
    from transformers.pytorch_utils import Conv1D

    from tuner.model import parameter_kinds, unfit_layers

    output = model.get_output_embeddings()
    linears: dict[str, tuple[int, int]] = {}
    norms: list[str] = []
    for name, module in model.named_modules():
        if module is output or is_new(name):
            continue
        weight = getattr(module, "weight", None)
        if isinstance(module, torch.nn.Linear):
            linears[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            linears[name] = (module.nx, module.nf)
        elif isinstance(weight, torch.nn.Parameter) and weight.ndim == 1:
            norms.append(name)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    experts = [name for name in shapes if ends(name, lora.EXPERTS)]
    stored = base.shapes()
    new = new_modules(name for name in shapes if name not in stored)
    unfit = unfit_layers.find(model, linears, norms)
    attention = model.config._attn_implementation
    kinds = {name: kind for name, kind in parameter_kinds.of(model).items() if name in shapes}
    return Skeleton(linears, norms, shapes, experts, base.tied, kinds, new, unfit, attention)
