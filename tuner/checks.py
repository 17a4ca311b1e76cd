"""What cannot be: keys of a recipe that contradict each other, the method, machine or base."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tuner import activations, checks_export, plan_rlhf, vocabulary
from tuner.base import Base
from tuner.decide import TASK_METRICS
from tuner.errors import ModelError, RecipeError
from tuner.heads import HEADS, family
from tuner.methods import METHODS, Method, lora, qat
from tuner.methods.full import StagedOptions
from tuner.methods.layernorm import LayernormOptions
from tuner.methods.lora import DoraOptions, LoraOptions
from tuner.methods.options import TargetedOptions
from tuner.methods.prompts import MultitaskOptions
from tuner.methods.targets import choose, ends, layers_of
from tuner.recipe import Recipe
from tuner.skeleton import Skeleton

if TYPE_CHECKING:
    from tuner.machine import Machine

# The names in METRICS, whose modules are too heavy for a plan.
METRIC_NAMES = (
    *("loss", "perplexity", "token_accuracy", "label_accuracy", "exact_match"),
    *(name for names in TASK_METRICS.values() for name in names),
)
Check = Callable[[Recipe, Method, bool], Iterator[str]]


def refuse_contradictions(recipe: Recipe, method: Method, machine: Machine) -> None:
    """Collect what cannot be, and say it all at once.

    Raises:
        RecipeError: with one problem a line.
    """
    if recipe.run.device == "cuda" and not machine.gpus:
        problems = ["run.device: cuda, and this machine has no GPU that can be used"]
    elif recipe.run.device == "cpu" and machine.elsewhere:
        problems = ["run.device: cpu, and --for names a GPU"]
    else:
        problems = []
    cpu = not (recipe.run.device != "cpu" and machine.gpus)
    checks: tuple[Check, ...] = (_quantization, _initialisation, qat.contradictions)
    checks += (vocabulary.contradictions,)
    for check in (*checks, checks_export.contradictions, _batches, _tasks, _names):
        problems += check(recipe, method, cpu)
    problems += plan_rlhf.refuse_contradictions(recipe, cpu)
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
    if not method.adapter:
        yield (
            f"model.quantize: {quantize} and method.name: {method.name}; quantized weights cannot "
            "be trained, only adapters beside them"
        )
    elif quantize not in method.quantized:
        able = ", ".join(sorted(method.quantized)) or "none"
        yield (
            f"model.quantize: {quantize} and method.name: {method.name}; not proven on such a base "
            f"(proven: {able})"
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


def _tasks(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    several = len(recipe.data.train) > 1 and isinstance(recipe.method, MultitaskOptions)
    if several and isinstance(recipe.data.eval, str):
        yield (
            "data.eval: a file, and method.name: multitask_prompt with several data sets; a "
            "held-out row must come from one of them: give a fraction or a number"
        )
    if getattr(recipe.method, "init", "") == "labels" and not recipe.data.labels:
        yield "method.init: labels, and data.labels is empty"
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
            yield f"method.experts: true and method.{clash[0]}; peft adapts experts with neither"


def _names(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    for name in recipe.eval.metrics:
        if name not in (*METRIC_NAMES, "auto"):
            yield f"eval.metrics: {name} is unknown; one of {', '.join(METRIC_NAMES)}, auto"


def refuse_base(recipe: Recipe, method: Method, found: Base, head: str) -> None:
    """Refuse a method that cannot be put on this base, before its weights are touched.

    Raises:
        RecipeError: the method is not for its family or type, or would break its tied matrices.
    """
    kind, model_type = family(found.config), str(found.config.get("model_type"))
    if kind not in method.families:
        raise RecipeError(
            f"method.name: {method.name} is not for {kind} models",
            f"{found.name} is one; the method is proven for {', '.join(sorted(method.families))}",
            "choose another method or another base",
        )
    if method.model_types and model_type not in method.model_types:
        raise RecipeError(
            f"method.name: {method.name} is not for models of type {model_type}",
            f"{found.name}; it is made for {', '.join(sorted(method.model_types))}",
            "choose another method or another base",
        )
    if HEADS[head].added and not method.classes:
        able = ", ".join(row.name for row in METHODS.values() if row.classes)
        raise RecipeError(
            f"method.name: {method.name} is not proven under a new head",
            f"{'model.task: classification' if head == 'classes' else 'tuner reward'}; proven are "
            f"{able}",
            "choose one of them",
        )
    if model_type == "gpt2" and not method.conv1d:
        raise RecipeError(
            f"method.name: {method.name} cannot change GPT-2's layers",
            f"{found.name} stores them transposed (Conv1D), which peft's {method.name} cannot",
            "use lora, or another base",
        )
    options = recipe.method
    if method.deep_prompts and getattr(options, "init", "") == "text" and kind != "decoder":
        raise RecipeError(
            f"method.init: text and a base of the family {kind}",
            "only a decoder's cache shows the keys and values of a text",
            "leave out method.init",
        )
    if not isinstance(options, LoraOptions):
        return
    tied = found.tied
    matrices = [name for name in options.modules_to_save if ends(name, vocabulary.MATRICES)]
    matrices += [name for name in options.modules_to_save if name in vocabulary.MATRICES]
    if tied and matrices:
        raise RecipeError(
            f"method.modules_to_save: {matrices[0]}, and the base's head is its embedding matrix",
            f"{found.name} has tie_word_embeddings: a copy of the one would not follow the other, "
            "and a merged model could not hold both",
            "leave it out, or use method.name: trainable_tokens for the embeddings of some tokens",
        )


def virtual_tokens(recipe: Recipe, found: Base) -> int:
    """Tokens of the context that a method takes for itself.

    Raises:
        RecipeError: they leave no room for a row.
    """
    count = getattr(recipe.method, "num_virtual_tokens", 0)
    if count and count > found.context_length // 2:
        raise RecipeError(
            f"method.num_virtual_tokens: {count} is more than half of the model's context",
            f"{found.name} takes {found.context_length} tokens, rows included",
            f"set method.num_virtual_tokens: {found.context_length // 2} or less",
        )
    return int(count)


def token_ids(recipe: Recipe, tokenizer: Any) -> tuple[int, ...]:
    """The ids of `method.tokens`.

    Raises:
        RecipeError: one is not a single token.
    """
    tokens = getattr(recipe.method, "tokens", ())
    vocabulary = tokenizer.get_vocab()
    found = []
    for token in tokens:
        ids = [vocabulary[token]] if token in vocabulary else []
        ids = ids or tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            near = difflib.get_close_matches(token, vocabulary, 3, 0.5)
            raise RecipeError(
                f"method.tokens: '{token}' is no token",
                f"the tokenizer makes {len(ids)} of it; near: {', '.join(near) or 'none'}",
                "name tokens as tokenizer.json spells them, or as they stand in a text",
            )
        found.append(int(ids[0]))
    return tuple(found)


def targets(recipe: Recipe, bones: Skeleton, found: Base) -> list[str]:
    """The modules a method changes; every name must match, and half of the layers at least.

    Raises:
        ModelError: a name matches nothing, or less than half of the layers are reached.
    """
    options = recipe.method
    if not isinstance(options, TargetedOptions):
        return []
    wanted = options.target_modules
    layers = options.layers if isinstance(options, LoraOptions) else ()
    names = list(bones.norms if isinstance(options, LayernormOptions) else bones.linears)
    chosen = choose(options, list(bones.linears), bones.norms, layers)
    keywords = ("all-linear", "all-norms", "auto")
    absent = [
        entry
        for entry in wanted
        if entry not in keywords and not any(ends(name, (entry,)) for name in names)
    ]
    if not chosen and len(wanted) == 1:
        try:
            re.compile(wanted[0])
        except re.error as error:
            raise RecipeError(
                "method.target_modules is neither a module's name nor a regular expression",
                f"'{wanted[0]}': {error}",
                f"correct it, or use {_everything(options)}",
            ) from error
    if not chosen or (absent and len(wanted) > 1):
        endings = sorted({name.rsplit(".", 1)[-1] for name in names})
        near = {entry: difflib.get_close_matches(entry, endings, 3, 0.4) for entry in absent}
        hints = [f"{entry} -> {', '.join(found)}" for entry, found in near.items() if found]
        hint = f"near: {'; '.join(hints)}. " if hints else ""
        raise ModelError(
            "method.target_modules names modules that the model does not have",
            f"{found.name}: {', '.join(absent or wanted)} matches no layer that "
            f"{options.name} can adapt; it has {', '.join(endings)}",
            f"{hint}correct method.target_modules, or use {_everything(options)}",
        )
    present = activations.Sizes.of(found.config).layers
    touched = layers_of(chosen)
    partial = options.allow_partial_targets or bool(layers)
    if present and len(touched) * 2 < present and not partial:
        raise ModelError(
            "method.target_modules reaches only part of the model",
            f"{found.name}: {len(chosen)} modules in {len(touched)} of {present} layers",
            "widen it, or set method.allow_partial_targets: true",
        )
    return chosen


def _everything(options: TargetedOptions) -> str:
    default = type(options).model_fields["target_modules"].default
    return str(default[0])
