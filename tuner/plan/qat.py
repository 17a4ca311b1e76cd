"""What quantization-aware training requires of a recipe and its base."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tuner.errors import RecipeError
from tuner.machine import packages
from tuner.methods.lora import LoraOptions
from tuner.methods.qat import GROUPS, INITS, METHODS, group_size
from tuner.model.heads import family

if TYPE_CHECKING:
    from tuner.methods.method import Method
    from tuner.model.base import Base
    from tuner.model.layers import Skeleton
    from tuner.recipe.schema import Recipe


def contradictions(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    """Yield what in a recipe contradicts `train.qat`, one problem per line."""
    kind, options = recipe.train.qat, recipe.method
    if kind == "none":
        return
    if find_spec("torchao") is None:
        yield f"train.qat: {kind} needs torchao: {packages.add('torchao')}"
    if recipe.model.quantize != "none":
        yield (
            f"train.qat: {kind} and model.quantize: {recipe.model.quantize}; it quantizes the "
            "merged weights, from a base that is not quantized"
        )
    if not isinstance(options, LoraOptions) or method.name not in METHODS:
        yield (
            f"train.qat: {kind} and method.name: {method.name}; only "
            f"{' and '.join(METHODS)} have merged weights in every step"
        )
        return
    if options.dropout > 0:
        yield (
            f"train.qat: {kind} and method.dropout: {options.dropout}; merged weights have no "
            "dropout"
        )
    if options.init not in INITS:
        yield (
            f"train.qat: {kind} and method.init: {options.init}, whose adapter is converted on "
            "export, which rounds the merged weights again"
        )
    if options.experts:
        yield f"train.qat: {kind} and method.experts: true; torchao does not quantize fused experts"
    if options.modules_to_save:
        yield (
            f"train.qat: {kind} and method.modules_to_save; these modules are not "
            "fake-quantized in training, but are quantized on export"
        )


def group_for(recipe: Recipe, task: str, head: str, base: Base, skeleton: Skeleton) -> int | None:
    """Return the group size of a run with `train.qat: int4`; None without groups.

    Raises:
        RecipeError: the task or the base cannot be exported that way.
    """
    kind = recipe.train.qat
    if kind == "none":
        return None
    sizes = {name: inputs for name, (inputs, _) in skeleton.linears.items()}
    group = group_size(sizes)
    odd = [f"{name} ({size})" for name, size in sizes.items() if size % GROUPS[-1]]
    why = ""
    if family(base.config) != "decoder" or base.config.get("model_type") == "gpt2":
        why = f"{base.name}: torchao quantizes nn.Linear layers, and only decoders are supported"
    elif task != "sft" or head != "language":
        why = "it is for supervised fine-tuning of models that generate text"
    elif skeleton.experts:
        why = f"{base.name}: torchao does not quantize the fused weights of its experts"
    if not why and kind == "int4" and group is None:
        why = f"{base.name}: groups of {GROUPS[-1]} do not divide the inputs of {odd[0]}"
        raise RecipeError(f"train.qat: {kind} cannot be used here", why, "use train.qat: int8")
    if why:
        raise RecipeError(f"train.qat: {kind} cannot be used here", why, "leave out train.qat")
    return group if kind == "int4" else None


def weights(kind: str, skeleton: Skeleton) -> int:
    """Return the number of weights that every step quantizes again."""
    return 0 if kind == "none" else sum(map(math.prod, skeleton.linears.values()))


def facts(kind: str, group: int | None) -> dict[str, dict[str, str]]:
    """Return what the plan shows of it; empty without it."""
    if kind == "none":
        return {}
    scales = f"{group} inputs of an output" if group else "output"
    return {
        "qat": {
            "weights": f"{kind}, symmetric, one scale per {scales}",
            "cost": "every step merges and quantizes each layer's weights again, and keeps a copy",
        }
    }
