"""Refuse export formats that the method, base, task or installation rules out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tuner.errors import RecipeError
from tuner.machine import converter
from tuner.methods.lora import LoraOptions
from tuner.methods.qat import GROUPS
from tuner.model.heads import HEADS
from tuner.recipe.export import AUTO
from tuner.recipe.formats import (
    ARCHITECTURES,
    FORMATS,
    needs_converter,
    needs_merge,
    require,
)

if TYPE_CHECKING:
    from tuner.methods.method import Method
    from tuner.model.base import Base
    from tuner.model.layers import Skeleton
    from tuner.recipe.schema import Recipe

# Methods whose adapter is a plain LoRA to every runtime.
PLAIN_LORA = ("lora", "rslora")


def contradictions(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    """Yield what in `export` contradicts the rest of a recipe, one problem per line."""
    for name in _named(recipe):
        if problem := _of_method(name, method):
            yield f"export.formats: {name} and method.name: {method.name}, {problem}"
    plain = recipe.model.quantize == "none"
    if plain and "max_kl" in recipe.export.options("merged"):
        yield (
            "export.formats: {merged: {max_kl: ...}} and model.quantize: none; such a merge is "
            "exact, so there is no limit to set"
        )
    if recipe.export.onto != "auto" and (plain or not any(map(needs_merge, _named(recipe)))):
        yield (
            f"export.onto: {recipe.export.onto} has no effect: it only applies to formats "
            "that merge the adapter of a quantized base"
        )
    if recipe.export.options("adapter").get("portable") and method.name not in PLAIN_LORA:
        yield (
            f"export.formats: {{adapter: {{portable: true}}}} and method.name: {method.name}, "
            "which cannot be written as a plain LoRA"
        )
    if "gguf-adapter" in recipe.export.names and (why := _no_plain_lora(recipe)):
        yield f"export.formats: gguf-adapter and {why}; it can only hold a plain LoRA"


def _named(recipe: Recipe) -> list[str]:
    return [name for name in recipe.export.names if name != AUTO]


def _of_method(name: str, method: Method) -> str:
    if FORMATS[name].of_adapter and not method.adapter:
        return "which trains the base's own weights; use merged"
    if name == "virtual_tokens" and not method.virtual_tokens:
        return "which has no virtual tokens"
    if needs_merge(name) and not method.mergeable:
        instead = "adapter or virtual_tokens" if method.virtual_tokens else "adapter"
        return f"which cannot be merged; export {instead}"
    return ""


def _no_plain_lora(recipe: Recipe) -> str:
    options = recipe.method
    if not isinstance(options, LoraOptions) or options.name not in PLAIN_LORA:
        return f"method.name: {options.name}"
    for key in ("modules_to_save", "rank_pattern", "experts"):
        if getattr(options, key):
            return f"method.{key}"
    return "model.new_tokens" if recipe.model.new_tokens else ""


def refuse_missing(recipe: Recipe) -> None:
    """Refuse formats whose packages or converter are not installed.

    Raises:
        ModelError: names the package and how to install it.
    """
    for name in _named(recipe):
        require(FORMATS[name])


def refuse_base(recipe: Recipe, method: Method, base: Base, head: str, skeleton: Skeleton) -> None:
    """Refuse all formats that this base cannot be exported to, together.

    Raises:
        RecipeError: names each of them.
    """
    problems = [
        f"export.formats: {name} and {problem}"
        for name in _named(recipe)
        if (problem := _of_base(name, method, base, head, skeleton))
    ]
    if problems:
        raise RecipeError(
            f"{base.name} cannot be exported in every format that the recipe names",
            problems=problems,
            fix="remove them from export.formats",
        )


def _of_base(name: str, method: Method, base: Base, head: str, skeleton: Skeleton) -> str:
    kind = str(base.config.get("model_type"))
    if needs_merge(name) and HEADS[head].added and not method.merges_classes:
        return (
            f"method.name: {method.name}, which cannot be merged under a new head: peft's merge "
            "cannot tell the head from adapted layers; export adapter, or train with lora"
        )
    if needs_converter(FORMATS[name]) and head != "language":
        what = "an encoder-decoder" if head == "sequence" else "a model with a new head"
        return f"{what}; GGUF is for decoders that generate text"
    if name == "gguf-adapter" and kind not in ARCHITECTURES:
        return f"a base of type {kind}; supported types: {', '.join(ARCHITECTURES)}"
    if FORMATS[name].llama_type and not _convertible(base):
        return f"{_architecture(base)}, which llama.cpp's converter does not support"
    if name == "int4" and head == "sequence":
        # T5 initializes weights that packed layers do not have, so it cannot be loaded again.
        return "an encoder-decoder, whose packed weights transformers cannot load"
    if name in ("int4", "int8-torchao") and not _linears(name, kind, skeleton):
        inputs = f" whose inputs are a multiple of {GROUPS[-1]}" if name == "int4" else ""
        return f"a base of type {kind}, which has no linear layer{inputs} to quantize"
    return ""


def _linears(name: str, kind: str, skeleton: Skeleton) -> bool:
    """Return whether the format quantizes any layer; GPT-2 keeps its layers as Conv1D."""
    if kind == "gpt2":
        return False
    step = GROUPS[-1] if name == "int4" else 1
    return any(inputs % step == 0 for inputs, _ in skeleton.linears.values())


def _architecture(base: Base) -> str:
    return str((base.config.get("architectures") or ["an unnamed architecture"])[0])


def _convertible(base: Base) -> bool:
    return converter.knows(_architecture(base))
