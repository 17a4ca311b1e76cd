"""Refuse recipes whose keys contradict each other, the method, the machine or the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tuner.errors import RecipeError
from tuner.methods import lora
from tuner.methods.full import StagedOptions
from tuner.methods.lora import DoraOptions, LoraOptions
from tuner.methods.method import Method
from tuner.methods.prompts import MultitaskOptions
from tuner.plan import (
    contradictions_export,
    contradictions_rlhf,
    contradictions_train,
    evaluations,
    new_tokens,
    qat,
    track,
)
from tuner.plan.metrics import METRICS, unknown_metric
from tuner.recipe.schema import Recipe

if TYPE_CHECKING:
    from tuner.machine.hardware import Machine


def refuse_contradictions(recipe: Recipe, method: Method, machine: Machine) -> None:
    """Collect all contradictions of a recipe, and raise them together.

    Raises:
        RecipeError: with one problem per line.
    """
    for name in recipe.eval.metrics:
        if name not in (*METRICS, "auto"):
            raise unknown_metric(name, METRICS)
    if recipe.run.device == "cuda" and not machine.gpus:
        why = f" ({machine.gpu_note})" if machine.gpu_note else ""
        problems = [
            f"run.device: cuda, but this machine has no usable GPU{why}; set run.device: auto"
        ]
    elif recipe.run.device == "cpu" and machine.elsewhere:
        problems = ["run.device: cpu, but --for names a GPU; set run.device: auto"]
    else:
        problems = []
    cpu = not (recipe.run.device != "cpu" and machine.gpus)
    for check in _CHECKS:
        problems += check(recipe, method, cpu)
    problems += _conversation(recipe)
    if problems:
        raise _contradictory(problems)


def refuse_conversation(recipe: Recipe) -> None:
    """Refuse contradictions about conversations alone, for what reads only the rows.

    Raises:
        RecipeError: with one problem per line.
    """
    if problems := list(_conversation(recipe)):
        raise _contradictory(problems)


def _contradictory(problems: list[str]) -> RecipeError:
    return RecipeError(
        "the recipe contradicts itself",
        problems=problems,
        fix="change one of the settings in each line, as it says",
    )


def _quantization(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    quantize = recipe.model.quantize
    if cpu and recipe.model.dtype == "float16":
        yield "model.dtype: float16 cannot train on a CPU; use float32 or auto"
    if quantize == "none":
        return
    if not method.adapter:
        yield (
            f"model.quantize: {quantize} and method.name: {method.name}; quantized weights cannot "
            "be trained, only adapters on top of them"
        )
    elif quantize not in method.quantized:
        able = ", ".join(sorted(method.quantized)) or "none"
        yield (
            f"model.quantize: {quantize} and method.name: {method.name}; not supported on such a "
            f"base (supported: {able})"
        )


def _conversation(recipe: Recipe) -> Iterator[str]:
    if recipe.data.render != "raw":
        return
    for key, given in (
        ("chat_template", recipe.model.chat_template != "auto"),
        ("chat_arguments", bool(recipe.model.chat_arguments)),
    ):
        if given:
            yield (
                f"data.render: raw uses no chat template, but model.{key} is set; leave out "
                f"model.{key}, or data.render"
            )


def _initialisation(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    options = recipe.method
    if not isinstance(options, LoraOptions):
        return
    if options.init == "loftq" and (cpu or recipe.model.quantize != "nf4"):
        yield "method.init: loftq needs a GPU and model.quantize: nf4"
    if lora.moves_base(options) and recipe.model.quantize != "none":
        yield (
            f"method.init: {options.init} rewrites the base weights, which "
            f"model.quantize: {recipe.model.quantize} forbids"
        )


def _batches(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    micro, batch = recipe.train.micro_batch_size, recipe.train.batch_size
    if micro != "auto" and batch % micro:
        fits = max(size for size in range(1, min(micro, batch) + 1) if batch % size == 0)
        yield (
            f"train.micro_batch_size: {micro} does not divide train.batch_size: {batch}; set "
            f"train.micro_batch_size: {fits}"
        )
    if recipe.data.packing is True and not method.packing:
        yield (
            f"data.packing: true and method.name: {method.name}, whose packed rows would attend "
            "to each other"
        )
    if recipe.train.gradient_checkpointing is True and not method.gradient_checkpointing:
        yield (
            f"train.gradient_checkpointing: true and method.name: {method.name}, which does not "
            "support it"
        )
    if isinstance(recipe.method, StagedOptions) and recipe.train.learning_rate != "auto":
        yield "train.learning_rate and method.name: staged; leave it out: each stage has its own"


def _tasks(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    several = len(recipe.data.train) > 1 and isinstance(recipe.method, MultitaskOptions)
    if several and recipe.data.eval_file is not None:
        yield (
            "data.eval: a file, and method.name: multitask_prompt with several data sets; a "
            "held-out row must come from one of them: set a fraction or a number"
        )
    if getattr(recipe.method, "init", "") == "labels" and not recipe.data.labels:
        yield "method.init: labels, but data.labels is empty: list the answers there"
    if isinstance(recipe.method, LoraOptions) and recipe.method.experts:
        clash = [
            name
            for name, given in (
                ("dropout", recipe.method.dropout > 0),
                ("init", recipe.method.init != "default"),
                ("name: dora", isinstance(recipe.method, DoraOptions)),
            )
            if given
        ]
        if clash:
            yield (
                f"method.experts: true and method.{clash[0]}; peft does not support it on experts"
            )


_CHECKS: tuple[Callable[[Recipe, Method, bool], Iterator[str]], ...] = (
    _quantization,
    _initialisation,
    qat.contradictions,
    new_tokens.contradictions,
    contradictions_export.contradictions,
    evaluations.contradictions,
    track.contradictions,
    _batches,
    contradictions_train.contradictions,
    _tasks,
    contradictions_rlhf.contradictions,
)
