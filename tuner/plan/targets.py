"""Parts of a base that a LoRA changes, by the keys of the recipe's `method` section: targets, some
layers only, other ranks, the fused weights of experts, modules that are trained in full.

Each name in the recipe must match something in the base: peft ignores those that do not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.console.formatting import counted
from tuner.errors import ModelError, RecipeError
from tuner.methods.layernorm import LayernormOptions
from tuner.methods.lora import LoraOptions
from tuner.methods.oft import FOLDED, OftOptions
from tuner.methods.options import MethodOptions, TargetedOptions
from tuner.methods.targets import choose, ends, layer_of, layers_of
from tuner.model import sizes
from tuner.model import tokenizer as vocabulary
from tuner.model.base import Base
from tuner.model.layers import Skeleton
from tuner.recipe.other_tools import answer as other_tools
from tuner.recipe.schema import Recipe

if TYPE_CHECKING:
    from tuner.model.layers import Skeleton


@dataclass(frozen=True)
class Parts:
    """Full names in the base.

    Attributes:
        experts: parameters with the fused weights of experts, to adapt.
        saved: modules to train in full and to save with the adapter.
    """

    experts: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()


def refuse_layers(options: MethodOptions, skeleton: Skeleton, base: Base) -> None:
    """Refuse numbers in `method.layers` that the base has no layer for.

    Raises:
        ModelError: names them.
    """
    present = layers_of((*skeleton.linears, *skeleton.experts))
    wanted = options.layers if isinstance(options, LoraOptions) else ()
    absent = [str(number) for number in wanted if number not in present]
    if absent:
        raise ModelError(
            "method.layers names layers that the model does not have",
            f"{base.name} has no layer {', '.join(absent)}; the last one is number "
            f"{max(present, default='none')}",
            f"name layers from 0 to {max(present, default=0)} in method.layers, or leave it out",
        )


def adapted_parts(
    options: MethodOptions, skeleton: Skeleton, targets: Sequence[str], base: Base
) -> Parts:
    """Find the parts of a base besides the targets; none for methods other than LoRA.

    Args:
        options: the recipe's `method` section.
        skeleton: of the base.
        targets: full names of the modules that get adapters.
        base: the base.

    Raises:
        ModelError: a name matches nothing, or the base has no experts.
        RecipeError: a module would be both trained in full and adapted.
    """
    if not isinstance(options, LoraOptions):
        return Parts()
    experts = _experts(options, skeleton, base) if options.experts else ()
    adapted = (*targets, *experts)
    _refuse_absent("rank_pattern", options.rank_pattern, adapted, base)
    modules = _modules(skeleton.sizes)
    _refuse_absent("modules_to_save", options.modules_to_save, modules, base)
    saved = tuple(name for name in modules if ends(name, options.modules_to_save))
    for name in saved:
        inside = [each for each in adapted if each == name or each.startswith(name + ".")]
        if inside:
            raise RecipeError(
                f"method.modules_to_save: {name} would be both trained in full and adapted",
                f"method.target_modules selects {inside[0]}",
                "leave it out of one of the two",
            )
    return Parts(experts, saved)


def _experts(options: LoraOptions, skeleton: Skeleton, base: Base) -> tuple[str, ...]:
    if not skeleton.experts:
        raise ModelError(
            "method.experts: true, but the model has no fused expert weights",
            f"{base.name} is of type {base.config.get('model_type')}",
            "leave out method.experts; experts that are linear layers are adapted without it",
        )
    layers = options.layers
    return tuple(name for name in skeleton.experts if not layers or layer_of(name) in layers)


def _modules(parameters: Iterable[str]) -> tuple[str, ...]:
    """Return every module that has a parameter, directly or inside."""
    found: dict[str, None] = {}
    for name in parameters:
        steps = name.split(".")[:-1]
        found.update(dict.fromkeys(".".join(steps[: n + 1]) for n in range(len(steps))))
    return tuple(found)


def _refuse_absent(key: str, wanted: Iterable[str], names: Collection[str], base: Base) -> None:
    absent = [entry for entry in wanted if not any(ends(name, (entry,)) for name in names)]
    if not absent:
        return
    ends_in = {name.rsplit(".", 1)[-1] for name in names}
    endings = {word for word in ends_in if not word.isdigit()}
    raise ModelError(
        f"method.{key} names modules that the model does not have",
        f"{base.name}: {', '.join(absent)} matches no module; module names here end in "
        f"{', '.join(sorted(endings))}",
        f"{_similar(absent, sorted(endings))}correct method.{key}",
    )


def _similar(absent: Iterable[str], endings: Sequence[str]) -> str:
    """Return which module names are similar to those that match nothing, as a sentence."""
    near = {entry: difflib.get_close_matches(entry, endings, 3, 0.4) for entry in absent}
    hints = [f"{entry} -> {', '.join(words)}" for entry, words in near.items() if words]
    return f"similar: {'; '.join(hints)}. " if hints else ""


def virtual_tokens(recipe: Recipe, base: Base) -> int:
    """Return the tokens of the context that a method takes for itself.

    Raises:
        RecipeError: they leave no room for a row.
    """
    count = getattr(recipe.method, "num_virtual_tokens", 0)
    if count and count > base.context_length // 2:
        raise RecipeError(
            f"method.num_virtual_tokens: {count} is more than half of the model's context",
            f"{base.name} has a context of {base.context_length} tokens, rows included",
            f"set method.num_virtual_tokens: {base.context_length // 2} or less",
        )
    return int(count)


def token_ids(recipe: Recipe, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of `method.tokens`.

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
                f"method.tokens: '{token}' is not a single token",
                f"the tokenizer splits it into {len(ids)}; similar: {', '.join(near) or 'none'}",
                "write tokens as in tokenizer.json, or as they appear in a text",
            )
        found.append(int(ids[0]))
    return tuple(found)


def targets(recipe: Recipe, skeleton: Skeleton, base: Base) -> list[str]:
    """Return the modules a method changes; every name must match, and at least half of the layers.

    Raises:
        ModelError: a name matches nothing, or less than half of the layers are reached.
    """
    options = recipe.method
    if not isinstance(options, TargetedOptions):
        return []
    wanted = options.target_modules
    layers = options.layers if isinstance(options, LoraOptions) else ()
    unfit = _unfit(options, skeleton)
    linears, norms = (
        [name for name in names if name not in unfit]
        for names in (skeleton.linears, skeleton.norms)
    )
    names = norms if isinstance(options, LayernormOptions) else linears
    chosen = choose(options, linears, norms, layers)
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
        _refuse_words(options, absent or wanted, base)
        _refuse_unfit(options, absent or wanted, skeleton, base)
        endings = sorted({name.rsplit(".", 1)[-1] for name in names})
        raise ModelError(
            "method.target_modules names modules that the model does not have",
            f"{base.name}: {', '.join(absent or wanted)} matches no layer that "
            f"{options.name} can adapt; it has {', '.join(endings)}",
            other_tools.instead("method.target_modules", wanted)
            or f"{_similar(absent, endings)}correct method.target_modules, or use "
            f"{_everything(options)}",
        )
    present = sizes.Sizes.of(base.config).layers
    touched = layers_of(chosen)
    partial = options.allow_partial_targets or bool(layers)
    if present and len(touched) * 2 < present and not partial:
        raise ModelError(
            "method.target_modules reaches only part of the model",
            f"{base.name}: {counted(len(chosen), 'module')} in {len(touched)} of {present} layers",
            "widen it, or set method.allow_partial_targets: true",
        )
    return chosen


def _refuse_words(options: TargetedOptions, wanted: Sequence[str], base: Base) -> None:
    """Refuse embeddings and head as targets, which are no layers inside the model.

    Raises:
        ModelError: says how they can be trained instead.
    """
    matrix = next((name for name in wanted if ends(name, vocabulary.MATRICES)), None)
    if matrix is None:
        return
    why = f"{base.name}: it is the matrix with a row for every token"
    fix = f"leave {matrix} out of method.target_modules"
    if base.tied:
        why += ", embeddings and head in one; an update of one would not reach the other"
        fix += "; method.name: trainable_tokens trains the rows of some tokens, and "
        fix += "model.new_tokens adds some"
    elif isinstance(options, LoraOptions):
        fix += f"; method.modules_to_save: [{matrix}] trains it in full"
    raise ModelError(f"method.target_modules: {options.name} does not adapt {matrix}", why, fix)


def _refuse_unfit(
    options: TargetedOptions, wanted: Sequence[str], skeleton: Skeleton, base: Base
) -> None:
    """Refuse layers that exist, but that no adapter works on, by name.

    Raises:
        ModelError: says why.
    """
    asked = options.model_copy(update={"target_modules": tuple(wanted)})
    unfit = _unfit(options, skeleton)
    named = choose(asked, [*unfit], [*unfit], ())
    if named:
        raise ModelError(
            f"method.target_modules: {options.name} does not work on {named[0]}",
            f"{base.name}: {unfit[named[0]]}",
            f"leave out {', '.join(wanted)}, or use {_everything(options)}",
        )


def _unfit(options: TargetedOptions, skeleton: Skeleton) -> dict[str, str]:
    """Return the layers that the method does not work on, as name -> why."""
    folded = [name for name in skeleton.linears if isinstance(options, OftOptions)]
    folded = [name for name in folded if ends(name, FOLDED)]
    return {**dict.fromkeys(folded, "it reads a tensor of four axes"), **skeleton.unfit}


def _everything(options: TargetedOptions) -> str:
    default = type(options).model_fields["target_modules"].default
    return str(default[0])
