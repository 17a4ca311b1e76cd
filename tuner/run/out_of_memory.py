"""Memory that runs out in a step: the same rows a step, in smaller micro-batches.

The update is the same but for rounding, so a run goes on by itself; what it did stands in the log,
on the screen and as `out_of_memory` in run.json, by which a resumed run begins with the size that
was found.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tuner.errors import ResourceError, first_line

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.tasks.watch import Watch

RECORD = "out_of_memory"

log = logging.getLogger(__name__)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in main memory."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch has no class of its own for main memory.
    told = "allocate memory" in str(error)
    return isinstance(error, RuntimeError) and (told or should_reduce_batch_size(error))


def resized(plan: Plan, most: int) -> Plan | None:
    """The plan with at most this many rows a forward pass; None where there are none fewer.

    The rows of a step stay what they are, so one process takes a size that divides them.
    """
    batch, world = plan.recipe.train.batch_size, plan.devices.world
    filled_up = world > 1 and plan.recipe.rlhf is None
    sizes = (size for size in range(most, 0, -1) if filled_up or batch % (size * world) == 0)
    size = next(sizes, None)
    if size is None:
        return None
    accumulation = plan.devices.accumulation(batch, size)
    return replace(plan, micro_batch_size=size, gradient_accumulation_steps=accumulation)


def as_found(plan: Plan, record: Mapping[str, Any]) -> Plan:
    """The plan with the size that an earlier start of the run has come down to."""
    found = record.get(RECORD) or []
    if not found or found[-1]["to"] >= plan.micro_batch_size:
        return plan
    return resized(plan, int(found[-1]["to"])) or plan


def shrink(plan: Plan, error: BaseException, watch: Watch) -> Plan:
    """The plan to do a step anew by: half the rows a forward pass.

    Args:
        plan: the one that memory did not suffice for.
        error: what said so.
        watch: knows the step that was not finished, and whether its update had begun.

    Raises:
        ResourceError: one row per forward pass is too much; or the step cannot be done anew, by
            this process or with others that do not know of it.
    """
    size, step, reason = plan.micro_batch_size, watch.number + 1, first_line(error)
    folder = watch.folder
    smaller = resized(plan, size // 2)
    if smaller is None:
        raise _nothing_fits(plan, step, reason) from error
    now = smaller.micro_batch_size
    if plan.devices.world > 1:
        raise ResourceError(
            "training ran out of memory",
            f"step {step}, train.micro_batch_size {size}: {reason}; of several processes none can "
            "change it alone",
            f"start again with another --output and train.micro_batch_size: {now}, which leaves "
            "the update as it is",
        ) from error
    found = {"step": step, "from": size, "to": now, "error": reason}
    folder.update(**{RECORD: [*(folder.record.get(RECORD) or []), found]})
    if watch.updating:
        raise ResourceError(
            "training ran out of memory",
            f"step {step}, train.micro_batch_size {size}: {reason}; its update had begun",
            f"run the same command with --resume: it goes on with {now} rows a forward pass",
        ) from error
    text = (
        f"memory ran out in step {step} ({reason}); it is done anew with {now} rows a forward pass "
        f"in place of {size}, the update stays the same"
    )
    log.warning(text)
    watch.reporter.warn(text)
    return smaller


def let_go(model: Any) -> None:
    """Free what a step that was not finished has left."""
    import torch

    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _nothing_fits(plan: Plan, step: int, reason: str) -> ResourceError:
    recipe, ways = plan.recipe, list[str]()
    if plan.method.gradient_checkpointing and not plan.gradient_checkpointing:
        ways.append("train.gradient_checkpointing: true")
    ways.append(f"data.max_length below {plan.max_length}")
    if getattr(recipe.method, "r", 1) > 1:
        ways.append(f"method.r below {getattr(recipe.method, 'r', 1)}")
    if recipe.model.quantize == "none" and plan.device == "cuda" and plan.method.adapter:
        ways.append("model.quantize: nf4")
    return ResourceError(
        "training ran out of memory with one row a forward pass",
        f"step {step}, train.micro_batch_size {plan.micro_batch_size}: {reason}",
        f"start again with another --output and {', or '.join(ways)}, or a smaller model.base",
    )
