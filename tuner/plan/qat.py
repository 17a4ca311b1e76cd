"""What quantization-aware training asks of a recipe and its base."""

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
    """What of a recipe cannot go together with `train.qat`, a line each."""
    kind, options = recipe.train.qat, recipe.method
    if kind == "none":
        return
    if find_spec("torchao") is None:
        yield f"train.qat: {kind} needs torchao: {packages.add('torchao')}"
    if recipe.model.quantize != "none":
        yield (
            f"train.qat: {kind} and model.quantize: {recipe.model.quantize}; the sum of base and "
            "adapter is what gets quantized, from a base that is not"
        )
    if not isinstance(options, LoraOptions) or method.name not in METHODS:
        yield (
            f"train.qat: {kind} and method.name: {method.name}; only the merged weights of "
            f"{' and '.join(METHODS)} are known in every step"
        )
        return
    if options.dropout > 0:
        yield f"train.qat: {kind} and method.dropout: {options.dropout}; merged weights have none"
    if options.init not in INITS:
        yield (
            f"train.qat: {kind} and method.init: {options.init}, whose adapter is converted on "
            "export, after which the sum is rounded anew"
        )
    if options.experts:
        yield f"train.qat: {kind} and method.experts: true; torchao does not quantize fused experts"
    if options.modules_to_save:
        yield (
            f"train.qat: {kind} and method.modules_to_save; whole copies of modules are not "
            "fake-quantized in training, but quantized on export"
        )


def group_for(recipe: Recipe, task: str, head: str, found: Base, bones: Skeleton) -> int | None:
    """The group of a run with `train.qat: int4`; None without groups.

    Raises:
        RecipeError: the task or the base is none that can be exported so.
    """
    kind = recipe.train.qat
    if kind == "none":
        return None
    sizes = {name: inputs for name, (inputs, _) in bones.linears.items()}
    group = group_size(sizes)
    odd = [f"{name} ({size})" for name, size in sizes.items() if size % GROUPS[-1]]
    why = ""
    if family(found.config) != "decoder" or found.config.get("model_type") == "gpt2":
        why = f"{found.name}: torchao quantizes nn.Linear layers, and it is proven for decoders"
    elif task != "sft" or head != "language":
        why = "it is for supervised tuning of models that write text"
    elif bones.experts:
        why = f"{found.name}: torchao does not quantize the fused weights of its experts"
    if not why and kind == "int4" and group is None:
        why = f"{found.name}: groups of {GROUPS[-1]} do not divide the inputs of {odd[0]}"
        raise RecipeError(f"train.qat: {kind} cannot be used here", why, "use train.qat: int8")
    if why:
        raise RecipeError(f"train.qat: {kind} cannot be used here", why, "leave out train.qat")
    return group if kind == "int4" else None


def weights(kind: str, bones: Skeleton) -> int:
    """Weights that every step quantizes anew."""
    return 0 if kind == "none" else sum(map(math.prod, bones.linears.values()))


def facts(kind: str, group: int | None) -> dict[str, dict[str, str]]:
    """What the plan tells of it; nothing without."""
    if kind == "none":
        return {}
    scales = f"each {group} inputs of an output" if group else "each output"
    return {
        "qat": {
            "weights": f"{kind}, symmetric, a scale for {scales}",
            "cost": "every step merges and quantizes each layer's weights anew, and keeps a copy",
        }
    }
