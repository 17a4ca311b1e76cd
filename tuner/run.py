"""run(plan): the spine. Its body is the table of contents of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import (
    checkpoint,
    costs,
    evaluate,
    export,
    heap,
    machine,
    model,
    proof_limits,
    provenance,
    ranks,
    rates,
    recipe_load,
    report,
    resumption,
    run_log,
    training,
    wording,
)
from tuner.errors import IntegrityError
from tuner.export import made
from tuner.methods import qat_peft
from tuner.record import METRICS, RunFolder
from tuner.signals import StopRequest
from tuner.tasks import TASKS

if TYPE_CHECKING:
    from tuner.checkpoint import Checkpoint
    from tuner.console import Console
    from tuner.plan import Plan

log = logging.getLogger(__name__)

# What a rank hands to `ranks.share` where rank 0 says the folder, its record and its checkpoint.
_NOWHERE: tuple[Path, dict[str, Any], bool, Path | None] = (Path(), {}, False, None)


def run(plan: Plan, *, resume: bool, console: Console) -> dict[str, Any]:
    """Train, score, export and verify what a plan says.

    Args:
        plan: from `plan.make`.
        resume: go on from the newest intact checkpoint of the run folder, where there is one.
        console: shows what happens.

    Returns:
        The record that stands in `run.json`.

    Raises:
        TunerError: with the exit code; the same object stands in `run.json`.
    """
    ranks.join(plan.devices.world, plan.device, plan.recipe.run.timeout, plan.identity())
    with StopRequest() as stop:
        folder, resumed, skipped = _open(plan, resume)
        with folder, run_log.log_to(run_log.file_in(folder.path)), ranks.one_failure():
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
                folder.update()
            return _run(plan, folder, stop, console, resumed)


def _open(plan: Plan, resume: bool) -> tuple[RunFolder, Checkpoint | None, list[str]]:
    """The run folder, where the run goes on, and what had to be skipped; rank 0 opens it for all.

    On several machines the folder lies where each can read it.
    """
    found: tuple[Checkpoint | None, list[str]] = (None, [])

    def admit(path: Path) -> None:
        nonlocal found
        found = training.newest_checkpoint(plan, path)

    if ranks.place().main:
        opened = RunFolder.open(plan.output, resume=resume, initial=_head(plan), admit=admit)
        resumed, skipped = found
        ranks.share((opened.path, opened.record, opened.resumed, resumed and resumed.path))
        return opened, resumed, skipped
    provenance.describe()
    path, record, goes_on, sealed = ranks.share(_NOWHERE)
    resumed = checkpoint.load(sealed) if sealed else None
    return RunFolder.follow(path, record, goes_on), resumed, []


def _head(plan: Plan) -> dict[str, Any]:
    """What the record says from the first moment on."""
    return {
        "recipe_sha256": plan.loaded.sha256,
        "content_sha256": recipe_load.content_sha256(plan.loaded),
        "plan": plan.as_dict(),
        **provenance.describe(),
    }


def _run(
    plan: Plan,
    folder: RunFolder,
    stop: StopRequest,
    console: Console,
    resumed: Checkpoint | None,
) -> dict[str, Any]:
    clock = provenance.Clock(folder.record.get("durations", {}) if folder.resumed else {})
    folder.truncate_metrics(resumed.step if resumed else 0)

    log.info(heap.keep_freed())
    console.phase("loading the base model")
    # Nothing else may hold the base: an export lets go of it.
    trained = training.start(plan, model.load(plan))
    fingerprint = plan.base.fingerprint()
    _check_base(folder, fingerprint)
    stop.check()
    clock.lap("load")

    scores: dict[str, Any] = dict(folder.record.get("scores") or {})
    first_answers = folder.record.get("samples")
    scored = _scoring(plan)
    if first_answers is None or folder.record.get("scored") != scored:
        scores["before"] = score(plan, trained, console, "before training")
        first_answers = evaluate.samples(plan, trained.model)
        folder.update(
            scores=scores,
            samples=first_answers,
            scored=scored,
            base_fingerprint=fingerprint,
            durations=clock.laps,
        )
    stop.check()
    clock.lap("score_before")

    def between(number: int) -> None:
        if f"stage_{number}" not in scores:
            scores[f"stage_{number}"] = score(plan, trained, console, f"after stage {number}")
            folder.update(scores=scores)

    console.phase(f"training {plan.steps} steps")
    if ranks.place().main:
        provenance.write_inputs(plan, folder)
    if resumed:
        console.note(f"resuming after step {resumed.step}")
    shown = (console.progress, between, resumed, console.note, console.warn)
    training.train(plan, trained, folder, stop, *shown)
    heap.give_back()
    clock.lap("train")

    scores["after"] = score(plan, trained, console, "after training")
    last_answers = evaluate.samples(plan, trained.model)
    if plan.qat:
        with qat_peft.plain(trained.model):
            scores["unquantized"] = score(plan, trained, console, "without quantization")
    clock.lap("score_after")
    main = ranks.place().main
    whole = training.gather(plan, trained)
    ranks.leave()
    if not main:
        return folder.record
    samples = [
        {**first, "after": last["answer"]}
        for first, last in zip(first_answers, last_answers, strict=True)
    ]
    finish(whole, folder, console, trained, clock, scores, samples)
    remember(plan, folder)
    return folder.record


def finish(
    plan: Plan,
    folder: RunFolder,
    console: Console,
    trained: training.Trained,
    clock: provenance.Clock,
    scores: dict[str, Any],
    samples: list[dict[str, Any]],
) -> None:
    """Show what came of it, write and prove the artefacts, close the record."""
    console.scores(scores["before"], scores["after"], scores.get("unquantized"))
    for item in samples:
        console.sample(item["prompt"], item["reference"], item["answer"], item["after"])

    trained.scores = scores
    # Cards of artefacts that are made of sealed ones have them from the record.
    folder.update(scores=scores)
    artefacts = write_artefacts(plan, trained, folder.record["base_fingerprint"], console)
    clock.lap("export")
    show_artefacts(artefacts, console)

    folder.finish(
        scores=scores,
        samples=samples,
        artefacts=artefacts,
        unmoved_tensors=trained.unmoved,
        durations=clock.laps,
        cost=costs.cost(plan, clock.laps["total"]),
        peak_memory_bytes=provenance.peak_memory_bytes(),
    )
    report.write(folder)
    if trained.unmoved:
        console.warn(f"{len(trained.unmoved)} trained tensors never moved; run.json names them")
    console.done(folder.record)


def write_artefacts(
    plan: Plan,
    trained: training.Trained,
    fingerprint: str,
    console: Console,
    *,
    rehearsal: bool = False,
) -> list[dict[str, Any]]:
    """Take off the model what only training needed, then write and prove every format.

    The live model is let go of where formats are made of what was sealed.
    """
    TASKS[plan.task].finish(plan, trained)
    # The processes that check the export need memory of their own.
    heap.give_back()
    if plan.qat:
        qat_peft.switch(trained.model, on=False)
    names = ", ".join(plan.live_formats)
    console.phase(f"exporting {names}; each is reloaded in a fresh process")
    artefacts = export.write(plan, trained, fingerprint)
    artefacts += made.write(plan, trained, console, rehearsal=rehearsal)
    return sorted(artefacts, key=lambda artefact: plan.formats.index(artefact["kind"]))


def show_artefacts(artefacts: Iterable[Mapping[str, Any]], console: Console) -> None:
    """Show what was written, each with its size, what was proven of it, and what it loses."""
    for artefact in artefacts:
        console.event("artefact", **artefact)
        size = wording.size(int(artefact.get("bytes", 0)))
        words = proof_limits.verdict(artefact)
        console.text(f"  {artefact.get('kind', '')}  {artefact.get('path', '')}  {size}  {words}")
        if losing := proof_limits.warning(artefact):
            console.warn(losing)


def remember(plan: Plan, folder: RunFolder) -> None:
    """Keep how fast the run was, for the plans of later ones."""
    lines = (folder.path / METRICS).read_text("utf-8").splitlines()
    rate = rates.of_run(plan, folder.record, [json.loads(line) for line in lines])
    if rate is not None:
        rates.keep(plan, machine.detect(), rate)


def _check_base(folder: RunFolder, fingerprint: str) -> None:
    """Refuse to continue a run on other weights than it started on."""
    if not ranks.same(fingerprint):
        raise IntegrityError(
            "the base model is not the same for all processes of this run",
            f"rank {ranks.place().rank} has weights of sha256 {fingerprint[:12]}",
            "give every node the same files",
        )
    resumption.refuse_other_base(folder.record, fingerprint)


def _scoring(plan: Plan) -> dict[str, Any]:
    """What the scores depend on besides the model: they are only compared where it is the same."""
    values = {key: item.value for key, item in plan.values.items() if key.startswith("eval.")}
    return dict(json.loads(json.dumps(values)))


def score(plan: Plan, trained: training.Trained, console: Console, when: str) -> dict[str, float]:
    rows = evaluate.rows(plan)
    if not plan.recipe.eval.enabled or not rows:
        return {}
    console.phase(f"scoring {len(rows)} held-out rows {when}")
    scores = evaluate.score(plan, trained.model, console.tick, trained.judge)
    # What scoring freed has other sizes than what training needs.
    heap.give_back()
    return scores
