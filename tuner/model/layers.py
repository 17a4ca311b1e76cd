"""The layers and parameter counts of a base, without loading its weights.

Read from the safetensors headers for families whose stored names are their module names; built on
torch's meta device from config.json for all others.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tuner.errors import ModelError, first_line
from tuner.methods import full, lora
from tuner.methods.full import StagedOptions
from tuner.methods.lora import LoraOptions
from tuner.methods.method import Method
from tuner.methods.options import Setting
from tuner.methods.targets import ends
from tuner.model import tokenizer
from tuner.model.base import Base
from tuner.model.heads import HEADS, is_new, named, new_modules

# Their stored tensor names are the names of the modules, and every stored matrix outside embedding
# and head is a linear layer. GPT-2 stores its matrices (inputs, outputs), the others transposed.
PLAIN_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gpt2"})
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_EMBEDDINGS, _HEADS = ("embed_tokens.", "wte.", "wpe."), ("lm_head.",)
_NOT_LINEAR = (*_EMBEDDINGS, *_HEADS)
# The matrices with a row for every token.
_WORDS = (".embed_tokens.weight", ".lm_head.weight", ".wte.weight")


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
    plain = head == "language" and base.config.get("model_type") in PLAIN_FAMILIES
    shapes = base.shapes() if plain else {}
    if not shapes:
        return _from_model(empty(base, head, rows), base)
    for name, shape in shapes.items():
        if f".{name}".endswith(_WORDS):
            shapes[name] = (max(shape[0], rows), *shape[1:])
    return _from_shapes(base, shapes)


def trained(
    base: Base, head: str, skeleton: Skeleton, method: Method, setting: Setting
) -> dict[str, Weight]:
    """Return exactly which tensors a method trains, the most at one time, by a name of each.

    Those of LoRA come from a formula; any other adapter is built on a model without weights.
    """
    options = setting.options
    if isinstance(options, StagedOptions):
        stages = [skeleton.weights(stage.train) for stage in options.stages]
        return max(stages, key=numbers)
    if method.config is None:
        return skeleton.weights("last_layer" if method.name == "last_layer" else "all")
    if (
        isinstance(options, LoraOptions)
        and head == "language"
        and not (options.modules_to_save or options.experts)
    ):
        own = {
            f"{name}.{part}": Weight(shape)
            for name in setting.targets
            for part, shape in lora.shapes(options, name, skeleton.linears[name]).items()
        }
        return own | _of_tokens(base, skeleton, setting.new_token_ids)
    return _of_adapter(base, head, method, setting)


def numbers(weights: Mapping[str, Weight]) -> int:
    """Return how many numbers there are in some tensors."""
    return sum(math.prod(weight.shape) for weight in weights.values())


def _of_adapter(base: Base, head: str, method: Method, setting: Setting) -> dict[str, Weight]:
    """Return what an adapter trains, by building it on torch's meta device."""
    import peft

    from tuner.model import embedding_rows, parameter_kinds

    model = empty(base, head, tokenizer.rows_for(0, setting.new_token_ids))
    try:
        with warnings.catch_warnings():
            # They are in run.log once the method is put on the base itself.
            warnings.simplefilter("ignore")
            assert method.config is not None
            config = setting.with_head(method.config(setting))
            embedding_rows.train(model, config, setting.new_token_ids)
            wrapped: Any = peft.get_peft_model(model, config)
    except (ValueError, AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"method.name: {method.name} cannot be used on this base",
            f"{base.name}: {first_line(error)}",
            "choose another method, or other modules",
        ) from error
    kinds = parameter_kinds.of(wrapped)
    # AdaLoRA keeps its ranks among the parameters, and never trains them.
    return {
        name: Weight(tuple(p.shape), kinds.get(name, "inner"))
        for name, p in wrapped.named_parameters()
        if p.requires_grad and "ranknum" not in name
    }


def _of_tokens(base: Base, skeleton: Skeleton, ids: Sequence[int]) -> dict[str, Weight]:
    """Return the rows of some tokens, in embedding and head."""
    rows = tokenizer.rows_for(base.vocabulary_rows, ids) if ids else 0
    return {
        name: Weight((len(ids), skeleton.sizes[name] // rows), "embedding")
        for name in skeleton.shapes
        if ids and f".{name}".endswith(_WORDS)
    }


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
    kinds = parameter_kinds.of(model)
    return Skeleton(linears, norms, shapes, experts, base.tied, kinds, new, unfit, attention)
