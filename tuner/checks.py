"""What cannot be: keys of a recipe that contradict each other, the method, machine or base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tuner import hatch, memory
from tuner.base import Base
from tuner.errors import ModelError, RecipeError
from tuner.methods import Method, lora
from tuner.methods.full import StagedOptions
from tuner.methods.lora import LoraOptions
from tuner.recipe import Recipe

if TYPE_CHECKING:
    from tuner.machine import Machine

# The names in EXPORTERS and METRICS, whose modules are too heavy for a plan.
FORMATS = ("adapter", "merged")
METRIC_NAMES = ("loss", "perplexity", "token_accuracy", "label_accuracy", "exact_match")
Check = Callable[[Recipe, Method, bool], Iterator[str]]


def refuse_contradictions(recipe: Recipe, method: Method, machine: Machine) -> None:
    """Collect what cannot be, and say it all at once.

    Raises:
        RecipeError: with one problem a line.
    """
    if recipe.run.device == "cuda" and not machine.gpus:
        problems = ["run.device: cuda, and this machine has no GPU that can be used"]
    else:
        problems = []
    cpu = not (recipe.run.device != "cpu" and machine.gpus)
    for check in (_quantization, _initialisation, _exports, _batches, _names):
        problems += check(recipe, method, cpu)
    hatch.read(recipe.train.trl)
    if problems:
        raise RecipeError(
            "the recipe asks for things that cannot go together",
            problems=problems,
            fix="change one side of each",
        )


def _quantization(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    quantize = recipe.model.quantize
    if cpu and recipe.model.dtype == "float16":
        yield "model.dtype: float16 cannot train on a CPU; use float32 or auto"
    if quantize == "none":
        return
    if not method.quantizable_base:
        yield (
            f"model.quantize: {quantize} and method.name: {method.name}; quantized weights cannot "
            "be trained, only adapters beside them"
        )
    if "merged" in recipe.export.formats:
        yield (
            f"export.formats: merged and model.quantize: {quantize}; a quantized base cannot take "
            "the update without loss, export the adapter"
        )


def _initialisation(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    options = recipe.method
    if not isinstance(options, LoraOptions):
        return
    if options.init == "loftq" and (cpu or recipe.model.quantize != "nf4"):
        yield "method.init: loftq needs a GPU and model.quantize: nf4"
    if options.init in lora.BASE_CHANGING_INITS and recipe.model.quantize != "none":
        yield (
            f"method.init: {options.init} rewrites the base weights, which "
            f"model.quantize: {recipe.model.quantize} forbids"
        )


def _exports(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    if not method.adapter and "adapter" in recipe.export.formats:
        yield (
            f"export.formats: adapter and method.name: {method.name}, which trains the base's own "
            "weights; use merged"
        )
    if not method.mergeable and "merged" in recipe.export.formats:
        yield f"export.formats: merged and method.name: {method.name}, which cannot be merged"


def _batches(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    micro, batch = recipe.train.micro_batch_size, recipe.train.batch_size
    if micro != "auto" and batch % micro:
        yield f"train.micro_batch_size: {micro} does not divide train.batch_size: {batch}"
    if recipe.data.packing is True and not method.packing:
        yield (
            f"data.packing: true and method.name: {method.name}, whose packed rows would see each "
            "other"
        )
    if recipe.train.gradient_checkpointing is True and not method.gradient_checkpointing:
        yield f"train.gradient_checkpointing: true and method.name: {method.name}"
    if isinstance(recipe.method, StagedOptions) and recipe.train.learning_rate != "auto":
        yield "train.learning_rate and method.name: staged; each stage has its own rate"


def _names(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    for key, known, given in (
        ("export.formats", FORMATS, recipe.export.formats),
        ("eval.metrics", METRIC_NAMES, recipe.eval.metrics),
    ):
        for name in given:
            if name not in (*known, "auto"):
                yield f"{key}: {name} is unknown; one of {', '.join(known)}, auto"


def targets(recipe: Recipe, linears: dict[str, tuple[int, int]], found: Base) -> list[str]:
    """The modules a LoRA adapts; every name must match, and half of the layers at least.

    Raises:
        ModelError: a name matches nothing, or less than half of the layers are reached.
    """
    if not isinstance(recipe.method, LoraOptions):
        return []
    wanted = recipe.method.target_modules
    chosen = lora.targets(recipe.method, list(linears))
    endings = sorted({name.rsplit(".", 1)[-1] for name in linears})
    absent = [
        entry
        for entry in wanted
        if entry != "all-linear"
        and not any(name == entry or name.endswith("." + entry) for name in linears)
    ]
    if not chosen or (absent and len(wanted) > 1):
        raise ModelError(
            "method.target_modules names modules that the model does not have",
            f"{found.name}: {', '.join(absent or wanted)} matches no linear layer; "
            f"it has {', '.join(endings)}",
            "correct method.target_modules, or use all-linear",
        )
    layers = memory.shape_of(found.config)[2]
    touched = memory.layers_of(chosen)
    if layers and len(touched) * 2 < layers and not recipe.method.allow_partial_targets:
        raise ModelError(
            "method.target_modules reaches only part of the model",
            f"{found.name}: {len(chosen)} modules in {len(touched)} of {layers} layers",
            "widen it, or set method.allow_partial_targets: true",
        )
    return chosen
