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
_NOT_LINEAR = ("embed_tokens.", "lm_head.", "wte.", "wpe.", "score.")
# The layer of a sequence classifier, and how many labels it has if config.json does not say.
_SCORE, _LABELS = "score.weight", 2
# The matrices with a row for every token.
_WORDS = (".embed_tokens.weight", ".lm_head.weight", ".wte.weight")


@dataclass(frozen=True)
class Skeleton:
    """What a base is made of.

    Attributes:
        linears: linear layers except the head, as name -> (inputs, outputs).
        norms: names of the normalisation layers.
        sizes: every parameter as name -> size.
        experts: parameters with the fused weights of a mixture of experts.
        tied: whether the head is the embedding matrix.
        new_modules: parts of the head that the base has no weights for.
        unfit: layers that no adapter works on, as name -> why.
        attention: transformers' own choice for it: sdpa, or eager where it has no other.
    """

    linears: dict[str, tuple[int, int]]
    norms: list[str]
    sizes: dict[str, int]
    experts: list[str]
    tied: bool
    new_modules: tuple[str, ...] = ()
    unfit: dict[str, str] = field(default_factory=dict)
    attention: str = "sdpa"

    @cached_property
    def total(self) -> int:
        """Parameters of the base, tied matrices once."""
        return sum(self.sizes.values())

    @property
    def unquantized(self) -> int:
        """Parameters that stay as they are in a quantized base: all outside its linear layers."""
        return self.total - sum(inputs * outputs for inputs, outputs in self.linears.values())

    def weights(self, which: str) -> int:
        """Return how many parameters of the base are trained with `which` = all or last_layer."""
        if which == "all":
            return self.total
        return sum(self.sizes[name] for name in full.last_layer(self.sizes, self.tied))


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
        if f".{name}".endswith(_WORDS):
            shapes[name] = (max(shape[0], rows), *shape[1:])
    return _from_shapes(base, shapes)


def _with_score(base: Base, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes with the linear layer that a sequence classifier of these families has in
    place of the language model's head."""
    config = base.config
    labels = len(config.get("id2label") or ()) or config.get("num_labels") or _LABELS
    words = next(shape for name, shape in shapes.items() if f".{name}".endswith(_WORDS))
    if "wte.weight" in shapes:
        shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    kept = {name: shape for name, shape in shapes.items() if not name.startswith("lm_head.")}
    return {**kept, _SCORE: (int(labels), words[1])}


def trainable(base: Base, head: str, skeleton: Skeleton, method: Method, setting: Setting) -> int:
    """Return exactly how many parameters a method trains, at most, at one time.

    LoRA is counted by a formula; any other adapter is built on a model without weights.
    """
    options = setting.options
    if isinstance(options, StagedOptions):
        return max(skeleton.weights(stage.train) for stage in options.stages)
    if method.config is None:
        return skeleton.weights("last_layer" if method.name == "last_layer" else "all")
    # peft trains a classifier's new layer as a whole.
    new = skeleton.sizes.get(_SCORE, 0)
    if (
        isinstance(options, LoraOptions)
        and (head == "language" or (new and base.config.get("model_type") in PLAIN_FAMILIES))
        and not (options.modules_to_save or options.experts)
    ):
        own = sum(
            lora.parameters(options, name, skeleton.linears[name]) for name in setting.targets
        )
        return own + new + _of_tokens(base, skeleton, setting.new_token_ids)
    import peft

    from tuner.model import embedding_rows

    model = empty(base, head, tokenizer.rows_for(0, setting.new_token_ids))
    try:
        with warnings.catch_warnings():
            # They are in run.log once the method is put on the base itself.
            warnings.simplefilter("ignore")
            config = setting.with_head(method.config(setting))
            embedding_rows.train(model, config, setting.new_token_ids)
            wrapped: Any = peft.get_peft_model(model, config)
    except (ValueError, AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"method.name: {method.name} cannot be used on this base",
            f"{base.name}: {first_line(error)}",
            "choose another method, or other modules",
        ) from error
    # AdaLoRA keeps its ranks among the parameters, and never trains them.
    named = wrapped.named_parameters()
    return sum(p.numel() for name, p in named if p.requires_grad and "ranknum" not in name)


def _of_tokens(base: Base, skeleton: Skeleton, ids: Sequence[int]) -> int:
    """Return the number of parameters in the rows of some tokens, in embedding and head."""
    if not ids:
        return 0
    whole = sum(size for name, size in skeleton.sizes.items() if f".{name}".endswith(_WORDS))
    return whole // tokenizer.rows_for(base.vocabulary_rows, ids) * len(ids)


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
    sizes = {name: math.prod(shape) for name, shape in kept.items()}
    return Skeleton(linears, norms, sizes, [], tied)


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

    from tuner.model import unfit_layers

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
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    experts = [name for name in sizes if ends(name, lora.EXPERTS)]
    stored = base.shapes()
    new = new_modules(name for name in sizes if name not in stored)
    unfit = unfit_layers.find(model, linears, norms)
    attention = model.config._attn_implementation
    return Skeleton(linears, norms, sizes, experts, base.tied, new, unfit, attention)
