"""Memory besides the policy's: the reward models' weights, the KV cache of the answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tuner.errors import ModelError
from tuner.model import layers
from tuner.model.sizes import Sizes
from tuner.plan.memory.activations import Kept
from tuner.plan.memory.estimate import WIDTHS

if TYPE_CHECKING:
    from tuner.data.prepared import Prepared
    from tuner.model.base import Base
    from tuner.plan.rlhf import Parties
    from tuner.recipe.schema import Recipe


def judges(parties: Parties, found: Base, dtype: str) -> int:
    """Return the bytes of the reward models' bases: each of them is loaded separately.

    One whose base does not exist yet, since an earlier stage writes it, counts as the policy's own.
    """
    total = 0.0
    for judge in parties.judges.values():
        try:
            base = judge.base(found)
        except ModelError:
            if not judge.planned:
                raise
            base = found
        stored = judge.section.quantize if judge.section else "none"
        width = WIDTHS[dtype if stored == "none" else stored]
        total += width * layers.read(base, "language").total
    return int(total)


def drawing(recipe: Recipe, prepared: Prepared, found: Base, kept: Kept, dtype: str) -> int:
    """Return the bytes while the answers of a step are sampled, all in one batch: the KV cache of
    every layer, that of one layer twice while it grows, and a layer's own work on the prompts.
    """
    rlhf = recipe.rlhf
    if rlhf is None or not rlhf.draws or not prepared.train:
        return 0
    sizes, rows, width = Sizes.of(found.config), recipe.train.batch_size, WIDTHS[dtype]
    longest = max(row.num_tokens for row in prepared.train)
    cache = 2 * sizes.keys * (sizes.layers + 1) * (longest + rlhf.max_new_tokens)
    return int(rows * (cache + longest * kept.passing) * width)


def with_critic(recipe: Recipe, kept: Kept) -> Kept:
    """Return what a micro-batch keeps when a critic on the reward model is trained with the policy:
    it has layers of its own, counted as large as the policy's."""
    if recipe.ppo is None or recipe.ppo.value_trunk != "reward":
        return kept
    return replace(
        kept,
        **{name: 2 * getattr(kept, name) for name in ("token", "exact", "place", "attended")},
    )
