"""Memory of learning from rewards or preferences besides the policy's: reward models, critic,
sampled answers, the reference policy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tuner.errors import ModelError
from tuner.model import layers
from tuner.model.sizes import Sizes
from tuner.plan.memory.estimate import WIDTHS, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuner.data.tokens.prepared import Prepared
    from tuner.model.base import Base
    from tuner.plan.rlhf import RlhfModels
    from tuner.recipe.schema import Recipe
    from tuner.recipe.schema_rlhf import RlhfSection

# trl keeps all logits of a loss without a reference, their gradient, and a copy of the better
# answers' half with its gradient.
_WHOLE_LOGITS = 3


def whole(
    policy: Workload,
    recipe: Recipe,
    prepared: Prepared,
    ordered: Sequence[Any],
    parties: RlhfModels,
    base: Base,
) -> Workload:
    """Return what the estimates need to know about a run that learns from rewards.

    Args:
        policy: the same of its policy alone, trained on the prompts.
        recipe: has the sections rlhf and ppo.
        prepared: the prompts, or the answers to compare.
        ordered: the rows in the order of the run.
        parties: the reward models.
        base: the base of the policy.
    """
    shape = replace(policy, others=policy.others + _judges(parties, base, policy.dtype))
    if recipe.rlhf is None:
        return shape
    if not recipe.rlhf.draws:
        return _of_rows(shape, recipe.rlhf, ordered, parties)
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


def _of_rows(
    shape: Workload, rlhf: RlhfSection, ordered: Sequence[Any], parties: RlhfModels
) -> Workload:
    """Return the needs of a loss of preferences: trl pads the answers of a forward pass, and
    computes logits at the answers' tokens, or at all where it compares with no reference."""
    padded = [len(row.answers) * len(row.input_ids) for row in ordered]
    if rlhf.compares:
        targets = [row.num_answer_tokens for row in ordered]
    else:
        targets = [_WHOLE_LOGITS * length for length in padded]
    rows = replace(shape.rows, lengths=padded, targets=targets, packed=False)
    own = _own_weights(shape, parties) if rlhf.compares else 0
    return replace(shape, rows=rows, others=shape.others + own)


def _own_weights(shape: Workload, parties: RlhfModels) -> int:
    """Return the bytes of the reference policy's own weights: the base's are shared. One that
    starts from an adapter has a copy of it, and trl makes another."""
    return 2 * 4 * shape.trainable if parties.policy is not None else 0


def reference(
    shape: Workload, micro_batch_size: int, rlhf: RlhfSection, parties: RlhfModels
) -> dict[str, int]:
    """Return the bytes that the reference policy takes: its own weights, and a forward pass next to
    what backward needs; where the loss has none, those that it saves.

    Args:
        shape: of the run in one process.
        micro_batch_size: rows per forward pass.
        rlhf: the section.
        parties: has what the policy starts from.
    """
    if rlhf.draws:
        return {}
    tokens = int(shape.rows.cut(micro_batch_size)[0].max(initial=0))
    passing = int(tokens * shape.kept.passing * WIDTHS[shape.dtype])
    found = _own_weights(shape, parties) + passing
    if rlhf.compares:
        return {"reference": found}
    return {"reference": 0, "saved_without_reference": found}


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
