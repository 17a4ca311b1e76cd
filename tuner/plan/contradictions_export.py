"""What a run cannot leave behind: formats that its method, base, task or installation rule out."""

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
    """What of `export` does not go together with the rest of a recipe, a line each."""
    for name in _named(recipe):
        if problem := _of_method(name, method):
            yield f"export.formats: {name} and method.name: {method.name}, {problem}"
    plain = recipe.model.quantize == "none"
    if plain and "max_kl" in recipe.export.options("merged"):
        yield (
            "export.formats: {merged: {max_kl: ...}} and model.quantize: none; such a merge is "
            "exact and has no limit to set"
        )
    if recipe.export.onto != "auto" and (plain or not any(map(needs_merge, _named(recipe)))):
        yield (
            f"export.onto: {recipe.export.onto} has no effect: it is for formats that merge the "
            "adapter of a quantized base"
        )
    if recipe.export.options("adapter").get("portable") and method.name not in PLAIN_LORA:
        yield (
            f"export.formats: {{adapter: {{portable: true}}}} and method.name: {method.name}, "
            "which no plain LoRA can express"
        )
    if "gguf-adapter" in recipe.export.names and (why := _no_plain_lora(recipe)):
        yield f"export.formats: gguf-adapter and {why}; it can only hold a plain LoRA"


def _named(recipe: Recipe) -> list[str]:
    return [name for name in recipe.export.names if name != AUTO]


def _of_method(name: str, method: Method) -> str:
    if FORMATS[name].of_adapter and not method.adapter:
        return "which trains the base's own weights; use merged"
    if name == "virtual_tokens" and not method.virtual_tokens:
        return "which has none"
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
        ModelError: naming the package and how to install it.
    """
    for name in _named(recipe):
        require(FORMATS[name])


def refuse_base(recipe: Recipe, method: Method, found: Base, head: str, bones: Skeleton) -> None:
    """Refuse formats that this base cannot become, all at once.

    Raises:
        RecipeError: names each of them.
    """
    problems = [
        f"export.formats: {name} and {problem}"
        for name in _named(recipe)
        if (problem := _of_base(name, method, found, head, bones))
    ]
    if problems:
        raise RecipeError(
            f"{found.name} cannot be exported in every format that the recipe names",
            problems=problems,
            fix="leave them out of export.formats",
        )


def _of_base(name: str, method: Method, found: Base, head: str, bones: Skeleton) -> str:
    kind = str(found.config.get("model_type"))
    if needs_merge(name) and HEADS[head].added and not method.merges_classes:
        return (
            f"method.name: {method.name}, which cannot be merged under a new head: peft's merge "
            "does not take heads apart from adapted layers; export adapter, or train with lora"
        )
    if needs_converter(FORMATS[name]) and head != "language":
        what = "an encoder-decoder" if head == "sequence" else "a model with a head of its own"
        return f"{what}; GGUF is for decoders that write text"
    if name == "gguf-adapter" and kind not in ARCHITECTURES:
        return f"a base of type {kind}; it is known for {', '.join(ARCHITECTURES)}"
    if FORMATS[name].llama_type and not _convertible(found):
        return f"{_architecture(found)}, which llama.cpp's converter does not know"
    if name == "int4" and head == "sequence":
        # T5 sets up weights that packed layers have not, and so cannot be opened again.
        return "an encoder-decoder, whose packed weights transformers cannot open"
    if name in ("int4", "int8-torchao") and not _linears(name, kind, bones):
        inputs = f" whose inputs are a multiple of {GROUPS[-1]}" if name == "int4" else ""
        return f"a base of type {kind} without a linear layer{inputs} that it quantizes"
    return ""


def _linears(name: str, kind: str, bones: Skeleton) -> bool:
    """Whether there is a layer that the format quantizes; GPT-2 keeps its layers as Conv1D."""
    if kind == "gpt2":
        return False
    step = GROUPS[-1] if name == "int4" else 1
    return any(inputs % step == 0 for inputs, _ in bones.linears.values())


def _architecture(found: Base) -> str:
    return str((found.config.get("architectures") or ["an unnamed architecture"])[0])


def _convertible(found: Base) -> bool:
    return converter.knows(_architecture(found))
