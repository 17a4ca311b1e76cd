"""run(plan): the spine. Its body is the table of contents of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import extract_model_from_parallel

from tuner import evaluate
from tuner.errors import IntegrityError
from tuner.machine import gpu, heap, ranks
from tuner.machine.signals import StopRequest
from tuner.methods import qat_layers
from tuner.record import checkpoint, gates, provenance
from tuner.record import log as run_log
from tuner.record.run_folder import RunFolder
from tuner.run import build, content, extend, out_of_memory
from tuner.run import finish as run_finish
from tuner.run import held_out as held
from tuner.run import resume as training
from tuner.run.build import set_stage
from tuner.run.finish import finish, remember
from tuner.run.track.following import Following, followed
from tuner.tasks import TASKS, averaged, precision
from tuner.tasks import leg as tasks_leg
from tuner.tasks.leg import Leg, Reporter
from tuner.tasks.loss_scale import Overflow
from tuner.tasks.trained import Trained
from tuner.tasks.watch import HeldOut

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.plan.plan import Plan
    from tuner.record.checkpoint import Checkpoint
    from tuner.tasks.watch import Watch

log = logging.getLogger(__name__)

# What other ranks pass to `ranks.share`, where rank 0 passes folder, record and checkpoint.
_NOWHERE: tuple[Path, dict[str, Any], bool, Path | None] = (Path(), {}, False, None)


def run(plan: Plan, *, resume: bool, console: Console) -> dict[str, Any]:
    """Train, score, export and verify according to a plan.

    Args:
        plan: from `plan.make`.
        resume: continue from the newest intact checkpoint of the run folder, if there is one.
        console: shows what happens.

    Returns:
        The record in `run.json`.

    Raises:
        TunerError: with the exit code; the same object is in `run.json`.
        TrainingError: the run is complete, and has failed a gate.
    """
    ranks.join(plan.devices.world, plan.device, plan.recipe.run.timeout, plan.identity())
    gpu.refuse_shared(plan.device)
    with StopRequest() as stop:
        folder, resumed, skipped = _open(plan, resume)
        with (
            followed(plan, folder.path, console) as following,
            folder,
            run_log.log_to(run_log.file_in(folder.path)),
            ranks.one_failure(),
        ):
            for text in folder.notes:
                console.note(text)
            for text in skipped:
                log.warning(text)
                console.warn(text)
            if folder.resumed:
                folder.record["resumes"][-1] |= {
                    "from_step": resumed.step if resumed else 0,
                    "skipped": skipped,
                }
                if longer := extend.of(plan, resumed):
                    console.note(str(longer))
                    folder.record["resumes"][-1]["extended"] = longer.record()
                    if ranks.place().main:
                        extend.put_aside(folder.path, longer.step)
                folder.update()
            again = "run the same command with --resume"
            with (
                precision.deterministic(plan),
                out_of_memory.explained(plan, lambda: console.doing, again),
            ):
                _run(plan, folder, stop, console, resumed, following)
    console.done(folder.record)
    # The record says that the run is done: only the command fails.
    if failed := gates.failure(folder.record):
        raise failed
    return folder.record


def _open(plan: Plan, resume: bool) -> tuple[RunFolder, Checkpoint | None, list[str]]:
    """Open the run folder on rank 0 for all; return it, its checkpoint, and what was skipped.

    With several machines the folder must be readable from each.
    """
    ignored = provenance.drop_overruling()
    if ranks.place().main:
        admit = partial(training.newest_checkpoint, plan)
        opened = RunFolder.open(
            plan.output, resume=resume, initial=_head(plan, ignored), admit=admit
        )
        resumed, skipped = opened.admitted or (None, [])
        ranks.share((opened.path, opened.record, opened.resumed, resumed and resumed.path))
        return opened, resumed, skipped
    path, record, goes_on, sealed = ranks.share(_NOWHERE)
    resumed = checkpoint.load(sealed) if sealed else None
    return RunFolder.follow(path, record, goes_on), resumed, []


def _head(plan: Plan, ignored: list[str]) -> dict[str, Any]:
    """Return what the record has from the start."""
    return {
        "recipe_sha256": plan.loaded.sha256,
        "content_sha256": content.content_sha256(plan.loaded),
        "plan": plan.as_dict(),
        **provenance.describe(),
        "ignored_environment": ignored,
    }


def _run(
    plan: Plan,
    folder: RunFolder,
    stop: StopRequest,
    console: Console,
    resumed: Checkpoint | None,
    following: Following,
) -> None:
    clock = _clock(folder.record if folder.resumed else {})
    folder.truncate_metrics(resumed.step if resumed else 0)
    following.begin()

    plan = out_of_memory.fit_free(plan, folder, console)
    log.info(heap.keep_freed())
    console.phase("loading the base model")
    # Nothing else may hold the base: an export frees it.
    trained = build.start(plan, build.load(plan))
    fingerprint = plan.base.fingerprint()
    _check_base(folder, fingerprint)
    stop.check()
    clock.lap("load")

    scores, first_answers = held.before(plan, trained, folder, console, fingerprint, clock)
    stop.check()
    clock.lap("score_before")

    def between(number: int) -> None:
        if f"stage_{number}" not in scores:
            scores[f"stage_{number}"] = held.score(plan, trained, console, f"after stage {number}")
            folder.update(scores=scores)

    console.phase(f"training {plan.steps} steps")
    if ranks.place().main:
        run_finish.write_inputs(plan, folder)
    if resumed:
        console.note(f"resuming after step {resumed.step}")
    following.look()
    held_out = held.while_training(plan, trained, console, between)
    watch = train(plan, trained, folder, stop, console, held_out, resumed)
    heap.give_back()
    clock.lap("train")

    scores |= held.after(plan, trained, watch, console) | held.tested(plan, trained, console)
    last_answers = evaluate.samples(plan, trained.model)
    if plan.qat:
        with qat_layers.plain(trained.model):
            scores["unquantized"] = held.score(plan, trained, console, "without quantization")
    clock.lap("score_after")
    main = ranks.place().main
    whole = build.gather(plan, trained)
    ranks.leave()
    if not main:
        return
    samples = [
        {**first, "after": last["answer"]}
        for first, last in zip(first_answers, last_answers, strict=True)
    ]
    folder.update(**watch.record(plan.steps, tested=bool(plan.prepared.test)))
    finish(whole, folder, console, trained, clock, scores, samples)
    remember(plan, folder)


def _clock(earlier: Mapping[str, Any]) -> provenance.Clock:
    """Return the clock of a run that goes on from what its record says; empty: from the start."""
    peaks = earlier.get("gpu_memory_bytes", {}).get("peak", {})
    return provenance.Clock(earlier.get("durations", {}), peaks)


def _check_base(folder: RunFolder, fingerprint: str) -> None:
    """Refuse to continue a run on other weights than it started on."""
    if not ranks.same(fingerprint):
        raise IntegrityError(
            "the base model is not the same for all processes of this run",
            f"rank {ranks.place().rank} has weights of sha256 {fingerprint[:12]}",
            "give every node the same files",
        )
    training.refuse_other_base(folder.record, fingerprint)


def train(
    plan: Plan,
    trained: Trained,
    folder: RunFolder,
    stop: StopRequest,
    reporter: Reporter,
    held_out: HeldOut,
    resumed: Checkpoint | None,
) -> Watch:
    """Run the remaining stages; return what evaluations have shown meanwhile.

    Args:
        plan: the plan.
        trained: updated in place.
        folder: takes metrics and checkpoints.
        stop: the run's signal handling; a signal during a step takes effect after it.
        reporter: shows what happens.
        held_out: scores the model between stages, and while they run.
        resumed: the checkpoint to continue from.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint of the last step is sealed.
        TrainingError: a loss or gradient is not finite, or nothing changed.
        ResourceError: the disk is full, or memory is too small for one row per forward pass.
    """
    plan = out_of_memory.as_found(plan, folder.record)
    watch = held.watch(plan, held_out, folder, resumed, reporter)
    done, last = resumed.step if resumed else 0, len(plan.stages) - 1
    for number, stage in enumerate(plan.stages):
        set_stage(plan, trained.model, stage)
        saved = resumed if resumed is not None and resumed.state["stage"] == number else None
        if done >= stage.stop or watch.stopped:
            if saved is not None:
                held.put(plan, trained.model, saved)
                if number < last:
                    held_out.between(number + 1)
            continue
        leg = tasks_leg.begin(plan, trained, stage, folder, stop, reporter, saved)
        with stop.deferred():
            plan = _carry_out(replace(leg, watch=watch))
        averaged.end(leg.optimizer)
        stop.check()
        trained.model.eval()
        if number < last:
            held_out.between(number + 1)
    held.end_with_best(plan, trained.model, watch, folder, reporter)
    trained.model.zero_grad(set_to_none=True)
    trained.unmoved = build.unmoved(plan, trained)
    with torch.no_grad():
        plan.method.hooks.finish(trained.model)
    return watch


def _carry_out(leg: Leg) -> Plan:
    """Run the steps of a leg; return the plan with the micro-batch size that fits into memory.

    A step that ran out of memory is repeated, in smaller parts, as if it had never begun; so is one
    whose gradients overflowed, with another scale.
    """
    trained = leg.trained
    while True:
        try:
            with precision.tf32(leg.plan):
                TASKS[leg.plan.task].trainer(leg).train()
            return leg.plan
        except Overflow:
            leg = leg.repeated(leg.plan)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory.ran_out(error):
                raise
            leg = leg.repeated(
                out_of_memory.shrink(leg.plan, error, leg.step, leg.folder, leg.reporter)
            )
        finally:
            # Remove the autocast that training put around the forward pass: what follows
            # computes as it did before training, and as the exported model will.
            trained.model = extract_model_from_parallel(trained.model, keep_fp32_wrapper=False)
            if leg.plan.device == "cuda":
                # accelerate would not put it there again: the next Trainer's scores would stay in
                # half precision, and a resumed run would not be the one that never stopped.
                vars(trained.model).pop("_is_accelerate_prepared", None)
        # Only here is the error released, whose frames hold the activations.
        out_of_memory.free_failed_step(trained.model)
