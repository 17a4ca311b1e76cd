"""An adapter's tensors in float64, and the merge they must give, with the error of float32.

A sum of n products in float32 is off by at most n u times the sum of the products' sizes, with
u = 2^-24 (Higham 2002, section 3.1); every further operation adds one u. The sizes are computed
entry by entry, from the absolute values of all factors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

U = 2.0**-24
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Exact:
    """A merged tensor, and how far from it float32 may end before the stored type rounds it.

    Attributes:
        value: in float64.
        slack: of every entry, in float64, not negative.
    """

    value: torch.Tensor
    slack: torch.Tensor


@dataclass(frozen=True)
class Replaced:
    """A tensor, or some rows of one, that the adapter holds itself.

    Attributes:
        rows: which ones; None: all.
        load: gives them, as they are stored.
    """

    rows: list[int] | None
    load: Callable[[], torch.Tensor]


# (the base's tensor in float64, whether it is (inputs, outputs)) -> what merging must give.
Formula = Callable[[torch.Tensor, bool], Exact]
Formulas = dict[str, Formula | Replaced]


class Saved:
    """An adapter's file, one tensor in memory at a time; notes which tensors are accounted for.

    Args:
        file: of peft.
        config: peft's, as JSON.
        network: the skeleton of the base.
    """

    def __init__(self, file: Path, config: Mapping[str, Any], network: Any) -> None:
        self.config, self.network = config, network
        self._file = file
        with safe_open(file, "pt") as tensors:
            self._names = list(tensors.keys())
        self._used: set[str] = set()

    def modules(self, end: str) -> list[str]:
        """Return the modules that have a tensor of this ending."""
        found = [name for name in self._names if name.endswith("." + end)]
        return [name.removeprefix(_PREFIX)[: -len(end) - 1] for name in found]

    def has(self, module: str, end: str) -> bool:
        """Return whether a tensor is there, and count it as accounted for."""
        name = _name(module, end)
        if name in self._names:
            self._used.add(name)
        return name in self._names

    def stored(self, module: str, end: str) -> torch.Tensor:
        """Return one tensor as it is stored."""
        with safe_open(self._file, "pt") as tensors:
            found: torch.Tensor = tensors.get_tensor(_name(module, end)).clone()
        return found

    def get(self, module: str, end: str) -> torch.Tensor:
        """Return one tensor in float64."""
        return self.stored(module, end).double()

    def claim(self, module: str, *ends: str) -> None:
        """Count the tensors of a module as accounted for.

        Raises:
            SystemExit: one is missing.
        """
        for end in ends:
            if not self.has(module, end):
                raise SystemExit(f"the adapter has no {end} of {module}")

    def pattern(self, key: str, module: str, usual: str) -> Any:
        """Return what a table of patterns in the configuration says about a module."""
        return pattern(self.config, key, module, usual)

    def unclaimed(self) -> list[str]:
        """Return the names, without peft's prefix, that nothing accounts for."""
        return [n.removeprefix(_PREFIX) for n in self._names if n not in self._used]


def pattern(config: Mapping[str, Any], key: str, module: str, usual: str) -> Any:
    """Return what a table of patterns says about a module, as peft reads it: the first match."""
    for regex, value in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({regex})$", module):
            return value
    return config[usual]


def lora_scale(config: Mapping[str, Any], module: str) -> float:
    """Return the scale of a LoRA from its configuration alone."""
    rank = pattern(config, "rank_pattern", module, "r")
    alpha = float(pattern(config, "alpha_pattern", module, "lora_alpha"))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _name(module: str, end: str) -> str:
    return f"{_PREFIX}{module}.{end}" if module else end


def add(
    base: torch.Tensor, flipped: bool, update: torch.Tensor, size: torch.Tensor, depth: float
) -> Exact:
    """Return base + update.

    Args:
        base: in float64.
        flipped: whether it is (inputs, outputs).
        update: (outputs, inputs).
        size: of its terms, entry by entry.
        depth: how many roundings each term meets.
    """
    moved, sizes = (update.T, size.T) if flipped else (update, size)
    value = base + moved.reshape(base.shape)
    return Exact(value, U * ((depth + 2) * sizes.reshape(base.shape) + value.abs()))


def transposed(module: Any) -> bool:
    """Return whether a layer holds its weight as (inputs, outputs), as GPT-2's do."""
    return type(module).__name__ == "Conv1D"


def sizes(module: Any) -> tuple[int, int]:
    """Return inputs and outputs of a linear layer."""
    first, second = module.weight.shape
    return (first, second) if transposed(module) else (second, first)
