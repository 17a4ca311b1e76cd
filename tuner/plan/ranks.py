"""Refuse ranks that the layers of a base have no room for."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.errors import RecipeError
from tuner.methods.lora import LoraOptions, rank
from tuner.methods.options import MethodOptions
from tuner.model import fused_experts
from tuner.model.base import Base
from tuner.model.layers import Skeleton
from tuner.schema.suggest import listed

# By `method.init`: where the first values of an adapter are taken from.
_TAKEN_FROM = {
    "pissa": "the singular vectors of each weight",
    "olora": "the columns of each weight",
    "eva": "what each layer reads",
}


def refuse_on_experts(options: MethodOptions, base: Base, chosen: Sequence[str]) -> None:
    """Refuse what peft cannot do on experts, where it takes layers for some.

    Raises:
        RecipeError: with the layers that are left.
    """
    if not isinstance(options, LoraOptions) or options.init not in _TAKEN_FROM:
        return
    if taken := fused_experts.taken(base.config, chosen):
        ends = [sorted({n.rpartition(".")[2] for n in some}) for some in (taken, chosen)]
        left = ", ".join(name for name in ends[1] if name not in ends[0])
        raise RecipeError(
            f"method.init: {options.init} does not work on {listed(ends[0])} of this base",
            f"{base.name} is of type {base.config.get('model_type')}: peft takes layers of these "
            "names for experts, whose weights are fused",
            f"set method.target_modules: [{left}], or leave out method.init",
        )


def refuse_rank(options: MethodOptions, skeleton: Skeleton, chosen: Sequence[str]) -> None:
    """Refuse a rank above the width of every layer that it is for, or of one whose adapter starts
    from as many directions as the rank.

    Raises:
        RecipeError: with the largest rank that adds anything, or that can be taken.
    """
    if not isinstance(options, LoraOptions) or not chosen:
        return
    widest = max(min(skeleton.linears[name]) for name in chosen)
    if options.r > widest:
        raise RecipeError(
            f"method.r: {options.r} is above the width of every layer that is adapted",
            f"an update of {widest} inputs or outputs has at most rank {widest}",
            f"set method.r: {widest} or less; 8 to 64 is usual",
        )
    if options.init in _TAKEN_FROM:
        _refuse_narrow(options, skeleton, chosen)


def _refuse_narrow(options: LoraOptions, skeleton: Skeleton, chosen: Sequence[str]) -> None:
    narrow: dict[str, int] = {}
    for name in chosen:
        inputs, outputs = skeleton.linears[name]
        # EVA compares twice as many directions of the inputs as it keeps.
        most = max(1, inputs // 2) if options.init == "eva" else min(inputs, outputs)
        if rank(options, name) > most:
            end = name.rpartition(".")[2]
            narrow[end] = min(most, narrow.get(end, most))
    if narrow:
        ranks = ", ".join(
            f"{name}: {most}" for name, most in (options.rank_pattern | narrow).items()
        )
        raise RecipeError(
            f"method.init: {options.init} needs more directions than {listed([*narrow])} have",
            f"it takes the adapter from {_TAKEN_FROM[options.init]}, and method.r is {options.r}",
            f"set method.rank_pattern: {{{ranks}}}, or leave out method.init",
        )
