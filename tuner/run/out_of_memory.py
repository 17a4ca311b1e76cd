"""Out of memory in a step: the same rows per step, in smaller micro-batches.

The update is the same except for rounding, so a run continues by itself; the change is in the log,
on the screen and as `out_of_memory` in run.json, from which a resumed run starts with the size
that fits.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tuner.console.formatting import counted
from tuner.errors import ResourceError, first_line
from tuner.machine import ranks
from tuner.plan.memory.estimate import CONTEXT, estimate
from tuner.plan.memory.fit import GIB
from tuner.plan.preferences import by_forward_pass

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.record.run_folder import RunFolder
    from tuner.tasks.leg import Reporter, Step

RECORD = "out_of_memory"

log = logging.getLogger(__name__)


def ran_out(error: BaseException) -> bool:
    """Return whether an error means out of memory, on a GPU or in main memory."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch has no class of its own for main memory.
    named = "allocate memory" in str(error)
    return isinstance(error, RuntimeError) and (named or should_reduce_batch_size(error))


@contextlib.contextmanager
def explained(plan: Plan, doing: Callable[[], str], again: str) -> Iterator[None]:
    """Raise a lack of memory outside a training step as what it is.

    Args:
        plan: for the advice.
        doing: returns the phase of the run.
        again: what to do once there is more memory.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        where = "the GPU, which other programs may use (see nvidia-smi)"
        raise ResourceError(
            f"out of memory while {doing()}",
            first_line(error),
            f"free memory on {where if plan.device == 'cuda' else 'this machine'} and {again}; or "
            f"start again with another --output and {_less(plan)}",
        ) from error


def _less(plan: Plan) -> str:
    """Return settings that take less memory in any phase, in words."""
    ways = [f"train.micro_batch_size below {plan.micro_batch_size}"] * (plan.micro_batch_size > 1)
    if plan.recipe.model.quantize == "none" and plan.device == "cuda" and plan.method.adapter:
        ways.append("model.quantize: nf4")
    return ", or ".join([*ways, "a smaller model.base"])


def resized(plan: Plan, most: int) -> Plan | None:
    """Return the plan with at most this many rows per forward pass; None if there is no such.

    The rows of a step stay the same, so a single process needs a size that divides them.
    """
    batch, world = plan.recipe.train.batch_size, plan.devices.world
    filled_up = world > 1 and plan.recipe.rlhf is None
    # The KL of kto is estimated from the rows of a forward pass.
    least = 2 if plan.rlhf.algorithm == "kto" else 1
    sizes = (n for n in range(most, least - 1, -1) if filled_up or batch % (n * world) == 0)
    size = next(sizes, None)
    return None if size is None else replace(plan, micro_batch_size=size)


def as_found(plan: Plan, record: Mapping[str, Any]) -> Plan:
    """Return the plan with the size that an earlier start of the run came down to."""
    found = record.get(RECORD) or []
    if not found or found[-1]["to"] >= plan.micro_batch_size:
        return plan
    return resized(plan, int(found[-1]["to"])) or plan


def fit_free(plan: Plan, folder: RunFolder | None, reporter: Reporter) -> Plan:
    """Return the plan with a micro-batch that fits what is free on the GPU: the plan was made for
    the whole of it, and other programs may use it, too.

    Args:
        plan: of the run; a size that its recipe sets is tried as it is.
        folder: its record gets the new size; None: a rehearsal keeps none.
        reporter: shows it.

    Raises:
        ResourceError: one row per forward pass is too much.
    """
    if plan.device != "cuda":
        return plan
    import torch

    free, whole = min(ranks.gather(torch.cuda.mem_get_info()))
    # This process has its context by now.
    fits = _fitting(plan, free + CONTEXT)
    if fits is plan:
        return plan
    found = f"{free / GIB:.1f} of {whole / GIB:.1f} GiB are free on the GPU"
    if plan.recipe.train.micro_batch_size != "auto":
        reporter.warn(f"{found}, less than train.micro_batch_size: {plan.micro_batch_size} needs")
        return plan
    if fits is None:
        need = estimate(plan.held, 1, plan.gradient_checkpointing).total
        raise ResourceError(
            "too little memory is free on the GPU",
            f"{found}, and one row per forward pass needs about {need / GIB:.1f} GiB",
            "end the programs that use the rest (nvidia-smi lists them), or choose another GPU "
            "with CUDA_VISIBLE_DEVICES",
        )
    size, now = plan.micro_batch_size, fits.micro_batch_size
    entry = {"step": 0, "from": size, "to": now, "error": found}
    if folder is not None:
        folder.update(**{RECORD: [*(folder.record.get(RECORD) or []), entry]})
    text = f"{found}: {counted(now, 'row')} per forward pass instead of {size}, {_stays(plan)}"
    log.warning(text)
    reporter.warn(text)
    return fits


def _fitting(plan: Plan, free: int) -> Plan | None:
    """Return the plan with as many rows per forward pass as fit; itself if its own do."""
    fits: Plan | None = plan
    while fits is not None:
        need = estimate(plan.held, fits.micro_batch_size, plan.gradient_checkpointing).total
        if need <= free:
            return fits
        fits = resized(plan, fits.micro_batch_size - 1)
    return None


def shrink(
    plan: Plan, error: BaseException, current: Step, folder: RunFolder, reporter: Reporter
) -> Plan:
    """Return the plan to repeat a step with: half the rows per forward pass.

    Args:
        plan: the one that ran out of memory.
        error: the error that was raised.
        current: the unfinished step.
        folder: its record gets the new size.
        reporter: shows it.

    Raises:
        ResourceError: one row per forward pass is too much; or the step cannot be repeated, since
            its update had begun or other processes take part.
    """
    size, step, reason = plan.micro_batch_size, current.number + 1, first_line(error)
    smaller = resized(plan, size // 2)
    if smaller is None:
        raise _nothing_fits(plan, step, reason) from error
    now = smaller.micro_batch_size
    if plan.devices.world > 1:
        raise ResourceError(
            "training ran out of memory",
            f"step {step}, train.micro_batch_size {size}: {reason}; one of several "
            "processes cannot change it alone",
            f"start again with another --output and train.micro_batch_size: {now}, which does not "
            "change the update",
        ) from error
    found = {"step": step, "from": size, "to": now, "error": reason}
    folder.update(**{RECORD: [*(folder.record.get(RECORD) or []), found]})
    if current.updating:
        raise ResourceError(
            "training ran out of memory",
            f"step {step}, train.micro_batch_size {size}: {reason}; its update had begun",
            f"run the same command with --resume: it continues with {counted(now, 'row')} per "
            "forward pass",
        ) from error
    text = (
        f"out of memory in step {step} ({reason}); it is repeated with {counted(now, 'row')} per "
        f"forward pass instead of {size}, {_stays(plan)}"
    )
    log.warning(text)
    reporter.warn(text)
    return smaller


def _stays(plan: Plan) -> str:
    """Return what fewer rows per forward pass mean to the update, in words."""
    if name := by_forward_pass(plan.recipe):
        return f"over which {name} takes a mean: the update is slightly different"
    return "the update stays the same"


def free_failed_step(model: Any) -> None:
    """Free what an unfinished step has left."""
    import torch

    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _nothing_fits(plan: Plan, step: int, reason: str) -> ResourceError:
    recipe, ways = plan.recipe, list[str]()
    if plan.method.gradient_checkpointing and not plan.gradient_checkpointing:
        ways.append("train.gradient_checkpointing: true")
    longest = plan.prepared.report.get("longest", plan.max_length)
    ways.append(f"data.max_length below {longest}")
    if getattr(recipe.method, "r", 1) > 1:
        ways.append(f"method.r below {getattr(recipe.method, 'r', 1)}")
    if recipe.model.quantize == "none" and plan.device == "cuda" and plan.method.adapter:
        ways.append("model.quantize: nf4")
    return ResourceError(
        "training ran out of memory with one row per forward pass",
        f"step {step}, train.micro_batch_size {plan.micro_batch_size}: {reason}",
        f"start again with another --output and {', or '.join(ways)}, or a smaller model.base",
    )
