"""Memory of learning from rewards besides the policy's: reward models, critic, sampled answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tuner.errors import ModelError
from tuner.model import layers
from tuner.model.sizes import Sizes
from tuner.plan.memory.estimate import WIDTHS, Workload

if TYPE_CHECKING:
    from tuner.data.tokens.prepared import Prepared
    from tuner.model.base import Base
    from tuner.plan.rlhf import RlhfModels
    from tuner.recipe.schema import Recipe


def whole(
    policy: Workload, recipe: Recipe, prepared: Prepared, parties: RlhfModels, base: Base
) -> Workload:
    """Return what the estimates need to know about a run that learns from rewards.

    Args:
        policy: the same of its policy alone, trained on the prompts.
        recipe: has the sections rlhf and ppo.
        prepared: the prompts.
        parties: the reward models.
        base: the base of the policy.
    """
    shape = replace(policy, others=policy.others + _judges(parties, base, policy.dtype))
    if recipe.rlhf is None or not recipe.rlhf.draws:
        return shape
    if recipe.ppo is not None and recipe.ppo.value_trunk == "reward":
        # A critic on the reward model has layers of its own, counted as large as the policy's.
        kept, doubled = shape.kept, ("token", "exact", "place", "attended")
        twice = {name: 2 * getattr(kept, name) for name in doubled}
        shape = replace(shape, kept=replace(kept, **twice))
    answer, prompts = recipe.rlhf.max_new_tokens, policy.rows.lengths
    rows = replace(
        policy.rows,
        lengths=[length + answer for length in prompts],
        targets=[answer] * len(prompts),
    )
    longest = max(row.num_tokens for row in prepared.train)
    drawing = _drawing(policy, recipe.train.batch_size, longest, answer, base)
    return replace(shape, rows=rows, drawing=drawing)


def drawing_peak(shape: Workload) -> int:
    """Return the bytes while answers are sampled, without gradients; 0 where none are sampled."""
    if not shape.drawing:
        return 0
    return shape.process + shape.weights + shape.state + shape.drawing


def _judges(parties: RlhfModels, policy: Base, dtype: str) -> int:
    """Return the bytes of the reward models' bases: each of them is loaded separately.

    One whose base does not exist yet, since an earlier stage writes it, counts as the policy's own.
    """
    total = 0.0
    for judge in parties.judges.values():
        try:
            base = judge.opened_with(policy)
        except ModelError:
            if not judge.planned:
                raise
            base = policy
        stored = judge.section.quantize if judge.section else "none"
        width = WIDTHS[dtype if stored == "none" else stored]
        total += width * layers.read(base, "language").total
    return int(total)


def _drawing(policy: Workload, batch: int, prompt: int, answer: int, base: Base) -> int:
    """Return the bytes while the answers of a step are sampled, all in one batch: the KV cache of
    every layer, that of one layer twice while it grows, and a layer's own work on the prompts.
    """
    sizes = Sizes.of(base.config)
    cache = 2 * sizes.keys * (sizes.layers + 1) * (prompt + answer)
    return int(batch * (cache + prompt * policy.kept.passing) * WIDTHS[policy.dtype])
