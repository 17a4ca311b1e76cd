"""OPTIMIZERS: what each optimizer needs, what it keeps, and the rate that it starts from.

The rates are shares of a method's default, which was chosen with AdamW. Lion's is from Chen et al.
2023 (3 to 10 times lower), Muon's from Liu et al. 2025 (the same, since its updates are scaled to
the size of AdamW's), schedule_free's from its authors (1 to 10 times higher). Adafactor's rate is
relative to a tensor's own size: 50 times 2e-4 is torch's default of 1e-2. SGD's gives updates of
AdamW's size where clipped gradients have the norm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner.methods.full import StagedOptions
from tuner.recipe.schema_train import TrainSection

if TYPE_CHECKING:
    from tuner.model.layers import Weight
    from tuner.plan.values import Values

# bitsandbytes keeps smaller tensors in 32 bits, and of the others a scale for each block.
_SMALL, _BLOCK = 4096, 256


def _every(width: int) -> Callable[[tuple[int, ...]], int]:
    """Return a function of a shape: this many bytes per number."""
    return lambda shape: width * math.prod(shape)


def _two_moments_in_8_bits(shape: tuple[int, ...]) -> int:
    size = math.prod(shape)
    return 8 * size if size < _SMALL else 2 * size + 8 * -(-size // _BLOCK)


def _rows_and_columns(shape: tuple[int, ...]) -> int:
    size = math.prod(shape)
    return 4 * (size // shape[-1] + size // shape[-2]) if len(shape) > 1 else 4 * size


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer is; `tasks.optimizer` makes it.

    Attributes:
        name: `train.optimizer` in the recipe.
        rate: default learning rate, as a share of the method's.
        state: bytes that it keeps of a tensor of this shape, in memory and in a checkpoint.
        by_adamw: kinds of tensors that AdamW trains in its place.
        needs: the package that it is from, where that may be missing.
        averages: whether what is kept are averages of the weights that it trains.
    """

    name: str
    rate: float
    state: Callable[[tuple[int, ...]], int]
    by_adamw: frozenset[str] = frozenset()
    needs: str = ""
    averages: bool = False

    def trains(self, weight: Weight) -> bool:
        """Return whether it trains a tensor; AdamW trains the others."""
        if "vector" in self.by_adamw and len(weight.shape) != 2:
            return False
        return weight.kind not in self.by_adamw

    def bytes_of(self, weights: Iterable[Weight]) -> int:
        """Return the bytes that are kept of some tensors."""
        adamw = OPTIMIZERS["adamw"]
        return sum((self if self.trains(each) else adamw).state(each.shape) for each in weights)


OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        Optimizer("adamw", 1.0, _every(8)),
        # Embeddings in 32 bits, as bitsandbytes advises and transformers does.
        Optimizer("adamw8bit", 1.0, _two_moments_in_8_bits, by_adamw=frozenset({"embedding"})),
        Optimizer(
            "paged_adamw8bit", 1.0, _two_moments_in_8_bits, by_adamw=frozenset({"embedding"})
        ),
        Optimizer("adafactor", 50.0, _rows_and_columns),
        Optimizer("lion", 0.2, _every(4)),
        Optimizer("muon", 1.0, _every(4), by_adamw=frozenset({"vector", "embedding", "head"})),
        Optimizer("schedule_free", 2.0, _every(8), needs="schedulefree", averages=True),
        Optimizer("sgd", 500.0, _every(4)),
    )
}


def rate(train: TrainSection, usual: float, whose: str) -> tuple[float, str]:
    """Return the default learning rate, and what it comes from.

    Args:
        train: has the optimizer.
        usual: the default of the method, with AdamW.
        whose: its name.
    """
    row = OPTIMIZERS[train.optimizer]
    why = f"the default of {whose}"
    if row.rate == 1.0:
        return usual, why
    return float(f"{usual * row.rate:.6g}"), f"{why}, {usual:g}, x {row.rate:g} for {row.name}"


def of_stage(train: TrainSection, method: StagedOptions, given: float) -> float:
    """Return the learning rate of a stage: that of the recipe, or the default for the optimizer."""
    own = method.stages != StagedOptions().stages
    return given if own else rate(train, given, "")[0]


def scheduler(train: TrainSection, values: Values) -> str:
    """Decide the schedule of the learning rate."""
    free = OPTIMIZERS[train.optimizer].averages
    why = "schedule_free averages in place of a schedule" if free else "the default"
    return str(values.set_auto("train.scheduler", "constant" if free else "linear", why))


def decay_steps(train: TrainSection, steps: int) -> int:
    """Return the last steps of a stage, in which the rate of `wsd` falls."""
    return int(train.decay) if train.decay >= 1 else math.ceil(round(train.decay * steps, 6))
