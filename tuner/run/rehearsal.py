"""A rehearsal: every part of a run on a few steps, timed, in a temporary folder.

The first step has the longest rows, so that a lack of memory shows up here; the speed is that of
the steps after it, which have the run's own rows.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner import evaluate
from tuner.errors import IntegrityError, Interrupted
from tuner.machine import gpu, hardware, heap, ranks
from tuner.machine.signals import StopRequest
from tuner.plan import costs, rates
from tuner.plan.costs import Times
from tuner.plan.rates import Rate
from tuner.record import checkpoint, identity, log, provenance, seal
from tuner.record.run_folder import RunFolder
from tuner.record.run_json import read_metrics
from tuner.run import build, finish, out_of_memory, spine
from tuner.run.rehearsal_plan import short_of
from tuner.tasks import precision
from tuner.tasks import trained as tasks_trained
from tuner.tasks.watch import HeldOut

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.plan.plan import Plan
    from tuner.record.checkpoint import Checkpoint


@dataclass(frozen=True)
class Rehearsal:
    """The measurements of a rehearsal; times in seconds, memory in bytes.

    Attributes:
        seconds: time of each part.
        steps: time of each step.
        rows: held-out rows that were scored.
        rate: for the plan, and for later ones.
        times: of the whole run, at that rate.
        peak_memory: the process's, or the GPU's, until the steps were done.
        planned_memory: the estimate of the plan.
        difference: the largest difference of a tensor between the last step and the same step from
            a checkpoint, as a share of its largest value; None if there is only one step.
    """

    seconds: dict[str, float]
    steps: list[float]
    rows: int
    rate: Rate
    times: Times
    peak_memory: int
    planned_memory: int
    difference: float | None


def rehearse(plan: Plan, console: Console) -> Rehearsal | None:
    """Load, score, train, seal, reload, resume and export like the run, on a few steps.

    Args:
        plan: of the run; its folder is not touched.
        console: shows what happens.

    Returns:
        What was measured; None on ranks other than 0.

    Raises:
        TunerError: what would stop the run stops its rehearsal, with the same exit code.
        IntegrityError: a step from a checkpoint differs from that of the uninterrupted run.
    """
    ranks.join(plan.devices.world, plan.device, plan.recipe.run.timeout, plan.identity())
    gpu.refuse_shared(plan.device)
    try:
        with (
            StopRequest() as stop,
            ranks.one_failure(),
            _aside(plan) as folder,
            # Warnings of libraries go to the log, as in a run.
            log.log_to(log.file_in(folder)),
        ):
            again = "run the same command"
            with (
                precision.deterministic(plan),
                out_of_memory.explained(plan, lambda: console.doing, again),
            ):
                plan = out_of_memory.fit_free(plan, None, console)
                found = _rehearse(plan, folder, stop, console)
    except Interrupted as error:
        number = error.exit_code - 128
        again = "run the same command again; the rehearsal left nothing behind"
        raise Interrupted(number, error.what, again) from error
    if found is not None:
        rates.keep(plan, hardware.detect(), found.rate)
    return found


@contextlib.contextmanager
def _aside(plan: Plan) -> Iterator[Path]:
    """Make a temporary folder next to the run's, the same for all processes."""
    if not ranks.place().main:
        yield ranks.share(Path())
        return
    parent = Path(os.path.abspath(plan.output)).parent
    missing = [each for each in (parent, *parent.parents) if not each.exists()]
    try:
        with seal.scratch(parent) as folder:
            ranks.share(folder)
            yield folder
    finally:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()


def _rehearse(plan: Plan, folder: Path, stop: StopRequest, console: Console) -> Rehearsal | None:
    main = ranks.place().main
    short, again = short_of(plan, folder / "first"), short_of(plan, folder / "again")
    clock = provenance.Clock({})
    heap.keep_freed()
    console.phase("rehearsal: loading the base model")
    trained = build.start(short, build.load(short))
    fingerprint = plan.base.fingerprint()
    stop.check()
    clock.lap("load")
    rows = _score(short, trained, clock, console)

    console.phase(f"rehearsal: training {short.steps} steps, the first on the longest rows")
    ends = _train(short, trained, stop, console, None)
    clock.lap("train")
    peak, difference = _peak(clock), None
    if short.stages[-1].steps > 1:
        console.phase(f"rehearsal: step {short.steps} again, from the checkpoint before it")
        del trained
        gc.collect()
        heap.give_back()
        trained = build.start(again, build.load(again))
        clock.lap("reload")
        _train(again, trained, stop, console, _sealed(short, short.steps - 1))
        clock.lap("resume")
        difference = _compare(plan, short, again)
    whole = build.gather(again, trained)
    ranks.leave()
    stop.check()
    if not main:
        return None
    artefacts = finish.write_artefacts(whole, trained, fingerprint, console, rehearsal=True)
    clock.lap("export")
    lines = read_metrics(short.output)
    seconds = rates.of_formats(artefacts)
    laps, (speed, step) = clock.laps, _speed(plan, short, lines)
    rate = Rate(
        tokens_per_second=speed,
        step=step,
        load=laps["load"],
        score_row=laps["score"] / rows if rows else 0.0,
        samples=laps["samples"],
        save=_saving(short, laps["train"], lines, ends),
        export=max(0.0, laps["export"] - sum(seconds.values())),
        by="rehearsal",
        date=rates.today(),
        made=seconds,
    )
    return Rehearsal(
        {**laps, "save": rate.save},
        [float(line["seconds"]) for line in lines],
        rows,
        rate,
        costs.times(plan, rate),
        peak,
        int(plan.facts["memory"]["total"]),
        difference,
    )


def _score(
    plan: Plan, trained: tasks_trained.Trained, clock: provenance.Clock, console: Console
) -> int:
    """Score a few held-out rows, generate the run's samples; return how many were scored."""
    rows = len(evaluate.rows(plan)) if plan.recipe.eval.enabled else 0
    if rows:
        console.phase(f"rehearsal: scoring {rows} held-out rows")
        evaluate.score(plan, trained.model, console.tick, trained.judge)
    clock.lap("score")
    evaluate.samples(plan, trained.model)
    clock.lap("samples")
    return rows


class _Timed:
    """A reporter that records when each step was done."""

    def __init__(self, console: Console) -> None:
        self.ends: list[float] = []
        self.note, self.warn, self.evaluation = console.note, console.warn, console.evaluation
        self._console = console

    def progress(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """Show progress, and record the time."""
        self.ends.append(time.perf_counter())
        self._console.progress(step, total, metrics)


def _train(
    plan: Plan,
    trained: tasks_trained.Trained,
    stop: StopRequest,
    console: Console,
    resumed: Checkpoint | None,
) -> list[float]:
    """Run the steps in a separate run folder; return when each of them was done."""
    reporter = _Timed(console)
    if ranks.place().main:
        folder = RunFolder.open(plan.output, resume=False)
    else:
        folder = RunFolder.follow(plan.output, {}, False)
    with folder:
        spine.train(plan, trained, folder, stop, reporter, HeldOut(), resumed)
    return reporter.ends


def _sealed(plan: Plan, step: int) -> Checkpoint:
    found = checkpoint.load(plan.output / "checkpoints" / f"step-{step}")
    identity.check_identity(found.state["identity"], plan.identity())
    return found


def _compare(plan: Plan, one: Plan, other: Plan) -> float:
    """Return the largest difference of a tensor after the last step, as a share of its maximum."""
    first, second = (_sealed(each, each.steps) for each in (one, other))
    largest = 0.0
    for mine, theirs in (
        (first.tensors, second.tensors),
        (first.optimizer_tensors, second.optimizer_tensors),
    ):
        for name, tensor in mine.items():
            if not torch.equal(tensor, theirs[name]):
                apart = (tensor.double() - theirs[name].double()).abs().max()
                scale = tensor.double().abs().max().clamp_min(torch.finfo(torch.float64).tiny)
                largest = max(largest, float(apart / scale))
    # GPUs sum in no fixed order.
    if largest and plan.device == "cpu":
        raise IntegrityError(
            "a resumed run would differ from an uninterrupted one",
            f"step {one.steps} taken from the checkpoint before it differs by up to {largest:.2g}",
            "please report it with this output; until then do not rely on --resume for this recipe",
        )
    return largest


def _peak(clock: provenance.Clock) -> int:
    reserved = [peaks["reserved"] for peaks in clock.gpu.values()]
    return max(reserved, default=0) or provenance.peak_memory_bytes()


def _saving(short: Plan, training: float, lines: list[dict[str, Any]], ends: list[float]) -> float:
    """Return the seconds that a checkpoint takes."""
    steps = [float(line["seconds"]) for line in lines]
    if short.stages[-1].steps > 1:
        # What lies between two steps is the checkpoint behind the first of them.
        return max(0.0, ends[-1] - ends[-2] - steps[-1])
    return max(0.0, training - sum(steps)) / rates.saves(short)


def _speed(plan: Plan, short: Plan, lines: list[dict[str, Any]]) -> tuple[float, float]:
    """Return tokens per second, and seconds per step, of the whole run from those of each stage.

    The first step of a stage does not count, if there are others: everything runs for the first
    time in it.
    """
    tokens = seconds = 0.0
    for whole, part in zip(plan.stages, short.stages, strict=True):
        own = [line for line in lines if part.start < line["step"] <= part.stop]
        own = own[1:] or own
        tokens += whole.steps * statistics.median(line["tokens"] for line in own)
        seconds += whole.steps * statistics.median(line["seconds"] for line in own)
    return tokens / seconds, seconds / plan.steps
