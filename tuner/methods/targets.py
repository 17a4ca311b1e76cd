"""Which modules of a base a method changes, by the recipe's `method.target_modules`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tuner.methods import bottleneck, ia3
from tuner.methods.bottleneck import BottleneckOptions
from tuner.methods.ia3 import Ia3Options
from tuner.methods.layernorm import LayernormOptions
from tuner.methods.options import TargetedOptions


def ends(name: str, endings: Sequence[str]) -> bool:
    """Return whether a module's full name is, or ends with, one of these names."""
    return any(name == entry or name.endswith("." + entry) for entry in endings)


def choose(
    options: TargetedOptions, linears: Sequence[str], norms: Sequence[str], layers: Sequence[int]
) -> list[str]:
    """Return the full names of the modules that `target_modules` selects.

    A name selects the modules that end with it, as in peft; a single entry that is no module's
    ending is a regular expression over the whole name.

    Args:
        options: the recipe's `method` section.
        linears: full names of the base's linear layers.
        norms: full names of its normalisation layers.
        layers: indices of the layers to adapt; empty: all.
    """
    names = norms if isinstance(options, LayernormOptions) else linears
    wanted = _automatic(options) if options.target_modules == ("auto",) else options.target_modules
    if wanted in (("all-linear",), ("all-norms",)):
        chosen = list(names)
    else:
        chosen = [name for name in names if ends(name, wanted)]
        if not chosen and len(wanted) == 1:
            try:
                chosen = [name for name in names if re.fullmatch(wanted[0], name)]
            except re.error:
                chosen = []
    if layers:
        chosen = [name for name in chosen if layer_of(name) in layers]
    return chosen


def layer_of(name: str) -> int | None:
    """Return the layer of a module: the first number in its name."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def layers_of(names: Iterable[str]) -> set[int]:
    """Return the layers of some modules."""
    return {layer for name in names if (layer := layer_of(name)) is not None}


def _automatic(options: TargetedOptions) -> tuple[str, ...]:
    if isinstance(options, BottleneckOptions):
        attention = bottleneck.ATTENTION_OUTPUTS if options.placement == "both" else ()
        return (*attention, *bottleneck.MLP_OUTPUTS)
    if isinstance(options, Ia3Options):
        return (*ia3.OUTER, *ia3.INNER)
    return ()
