"""How many rows go through a forward pass, by the available memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuner.data.tokens import order as data_order
from tuner.errors import RecipeError, ResourceError
from tuner.methods.method import Method
from tuner.model.base import Base
from tuner.plan.memory import estimate, fit
from tuner.plan.memory import rlhf as memory_rlhf
from tuner.plan.values import Stage, Values
from tuner.recipe.schema import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuner.machine.hardware import Machine
    from tuner.plan.decide import Decided
    from tuner.plan.ground import RecipeAndBase

# Tokens from which float32 matrix products run at a CPU's full rate: halving 1,652 tokens of packed
# rows on SmolLM2-135M cost 4 % of the time and saved 1 GB of 3.3. In half precision it cost 5 %,
# and a token takes half of the memory: twice as many tokens there.
ENOUGH_TOKENS = 768

# Rows of the training order that the memory estimate looks at: with more, the largest would hardly
# be larger.
_FORESEEN = 50_000


def order(recipe: Recipe, count: int, stages: Sequence[Stage]) -> list[int]:
    """Return the training rows in the order of the run, up to the number that estimates look at."""
    rows = min(stages[-1].stop * recipe.train.batch_size, _FORESEEN)
    return [int(row) for row in data_order.order(count, recipe.run.seed, 0, rows)]


def mapped(recipe: Recipe, base: Base, device: str, dtype: str, parameters: int) -> int:
    """Return the bytes of the base's files that stay mapped next to its quantized weights: on a CPU
    the other weights are read from the file, if stored in the type they are computed in."""
    stored = base.config.get("dtype") or base.config.get("torch_dtype")
    stays = recipe.model.quantize != "none" and device == "cpu" and stored == dtype
    return parameters * (4 if dtype == "float32" else 2) if stays else 0


def split(
    base: RecipeAndBase,
    decided: Decided,
    shape: estimate.Workload,
    quantized: estimate.Workload | None,
    machine: Machine,
    values: Values,
) -> tuple[int, bool]:
    """Choose micro-batch and gradient checkpointing by the memory estimate.

    Args:
        base: the recipe and its base.
        decided: the device of the run.
        shape: of the run in one process.
        quantized: the same on a base in 4 bits, for the fix where nothing fits.
        machine: says how much memory there is.
        values: gets the choices.

    Raises:
        RecipeError: the recipe asks for recomputation that is not possible.
        ResourceError: not even one row per forward pass fits; says what would.
    """
    recipe, method, device = base.recipe, base.method, decided.device
    packed, processes = decided.packing, decided.processes
    possible = recomputable(method, packed)
    if recipe.train.gradient_checkpointing is True and not possible:
        raise RecipeError(
            f"train.gradient_checkpointing: true and method.name: {method.name}",
            "its keys and values are in a cache unless rows are packed, and a cache cannot be "
            "recomputed",
            "lower train.micro_batch_size instead, which does not change the update",
        )
    shared = machine.memory_bytes // processes.per_node
    available = machine.gpu_memory(processes.per_node) if device == "cuda" else shared
    limit = fit.budget(device, available)
    batch = processes.share(recipe.train.batch_size)
    asked, micro = recipe.train.gradient_checkpointing, recipe.train.micro_batch_size
    allowed = recomputes(recipe, possible)
    choice = fit.choose(shape, limit, allowed)
    if choice is None and micro == "auto":
        need = min(estimate.estimate(shape, 1, again).total for again in allowed)
        raise ResourceError(
            "this run does not fit into memory",
            f"a micro-batch of one row needs about {need / 2**30:.1f} GiB; the budget is "
            f"{limit / 2**30:.1f} of {available / 2**30:.1f} GiB",
            fit.remedies(shape, quantized, limit, allowed),
        )
    if (drawing := memory_rlhf.drawing_peak(shape)) > limit:
        raise ResourceError(
            "sampling the answers of a step does not fit into memory",
            f"it needs about {drawing / 2**30:.1f} GiB; the budget is "
            f"{limit / 2**30:.1f} of {available / 2**30:.1f} GiB",
            "lower train.batch_size, rlhf.max_new_tokens or data.max_length",
        )
    size = choice.micro_batch_size if choice and micro == "auto" else int(micro)
    checkpointing = bool(choice and choice.checkpointing)
    if micro != "auto":
        fits = estimate.estimate(shape, size, False).total <= limit
        checkpointing = possible and not fits if asked == "auto" else bool(asked)
    shares = f"a {'GPU' if device == 'cuda' else 'process'}'s share of a step fits"
    whole = "a step's rows fit" if processes.world == 1 else shares
    why = f"{whole if size == batch else 'the most that fits'} into {limit / 2**30:.1f} GiB"
    if (
        micro == "auto"
        and device == "cpu"
        and packed
        and (few := _enough(shape, batch, size)) < size
    ):
        size = few
        why = f"{_enough_tokens(shape)} tokens keep a CPU busy; more would only take memory"
    values.set_auto("train.micro_batch_size", _several(recipe, size, batch, limit), why)
    why = "needed to fit into memory" if checkpointing else "fits into memory without it"
    values.set_auto("train.gradient_checkpointing", checkpointing, why)
    return size, checkpointing


def recomputable(method: Method, packed: bool) -> bool:
    """Return whether activations may be recomputed: those in a cache may not."""
    return method.gradient_checkpointing and (packed or not method.deep_prompts)


def recomputes(recipe: Recipe, possible: bool) -> tuple[bool, ...]:
    """Return whether to keep or recompute activations, in the order to try."""
    asked = recipe.train.gradient_checkpointing
    return (asked,) if asked != "auto" else (False, True) if possible else (False,)


def _several(recipe: Recipe, size: int, batch: int, limit: int) -> int:
    """Return the rows per forward pass, which are several for kto: it estimates the KL from them.

    Raises:
        ResourceError: only one row fits, or there is only one.
    """
    if size > 1 or recipe.rlhf is None or recipe.rlhf.algorithm != "kto":
        return size
    raise ResourceError(
        "rlhf.algorithm: kto needs two rows per forward pass",
        f"one of a process's {batch} rows per step fits into {limit / 2**30:.1f} GiB",
        "set train.batch_size to an even number per process; or lower data.max_length",
    )


def _enough_tokens(shape: estimate.Workload) -> int:
    return int(ENOUGH_TOKENS * estimate.WIDTHS["float32"] / estimate.WIDTHS[shape.dtype])


def _enough(shape: estimate.Workload, batch_size: int, most: int) -> int:
    """Return the fewest rows, of the divisors of the batch up to `most`, with enough tokens."""
    enough = _enough_tokens(shape)
    mean = sum(shape.rows.lengths) / max(1, len(shape.rows.lengths))
    sizes = (size for size in range(1, most) if batch_size % size == 0)
    return next((size for size in sizes if size * mean >= enough), most)
