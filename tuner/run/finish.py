"""The end of a run: scores shown, artefacts written and proven, the record closed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tuner.console import formatting
from tuner.data.columns.named import named
from tuner.export import run_end
from tuner.machine import hardware, heap
from tuner.methods import qat_layers
from tuner.plan import costs, gates, rates
from tuner.recipe import dump, history_rows
from tuner.recipe.source import LOCK
from tuner.record import gates as record_gates
from tuner.record import proof_limits, provenance, report, selection
from tuner.record.disk import write_file, write_json
from tuner.record.run_folder import RunFolder
from tuner.record.run_json import read_metrics
from tuner.tasks import TASKS
from tuner.tasks import trained as tasks_trained

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.plan.plan import Plan


def write_inputs(plan: Plan, folder: RunFolder) -> None:
    """Write `recipe.lock.yaml`, with how tables are read, and `data_report.json`."""
    date = plan.values["model.chat_date"].value
    pinned = {"code_sha256": plan.base.code_sha256, "chat_date": date}
    section = plan.recipe.model.model_copy(update=pinned)
    report = plan.prepared.report
    seen = history_rows.as_read(report["files"], plan.recipe.data)
    data = plan.recipe.data.model_copy(update=seen)
    if plan.task == "sft":
        data = named(data, report)
    recipe = plan.recipe.model_copy(update={"model": section, "data": data})
    text = dump.dump(recipe, plan.loaded.folder)
    write_file(folder.path / LOCK, text.encode())
    write_json(folder.path / "data_report.json", plan.prepared.report)


def finish(
    plan: Plan,
    folder: RunFolder,
    console: Console,
    trained: tasks_trained.Trained,
    clock: provenance.Clock,
    scores: dict[str, Any],
    samples: list[dict[str, Any]],
) -> None:
    """Show the results, write and prove the artefacts, close the record."""
    others = {when: scores.get(when) for when in ("last", "test", "unquantized")}
    console.scores(scores["before"], scores["after"], **others)
    for item in samples:
        console.sample(item["prompt"], item["reference"], item["answer"], item["after"])

    evaluation = folder.record.get("evaluation") or {}
    if chosen := selection.said(evaluation):
        console.text(formatting.paragraph("chosen", [chosen]))
    passed = gates.judged(plan.recipe, scores)
    for gate in passed:
        console.event("gate", **gate)
        verdict = "passed" if gate["passed"] else "FAILED"
        console.text(f"  gate {verdict}: {record_gates.said(gate)} ({gate['rows']})")
    trained.measured = {"scores": scores, "evaluation": evaluation}
    # Cards of artefacts made from sealed ones take them from the record.
    folder.update(scores=scores)
    artefacts = write_artefacts(plan, trained, folder.record["base_fingerprint"], console)
    clock.lap("export")
    show_artefacts(artefacts, console)

    folder.finish(
        scores=scores,
        samples=samples,
        artefacts=artefacts,
        unmoved_tensors=trained.unmoved,
        **({"gates": passed} if passed or "gates" in folder.record else {}),
        durations=clock.laps,
        cost=costs.cost(plan, clock.laps["total"]),
        peak_memory_bytes=provenance.peak_memory_bytes(),
        **gpu_memory(plan, clock),
    )
    report.write_report(folder)
    if trained.unmoved:
        console.warn(f"{len(trained.unmoved)} trainable tensors never changed; run.json lists them")


def gpu_memory(plan: Plan, clock: provenance.Clock) -> dict[str, Any]:
    """Return what the run took of its GPU, by phase, next to the estimate; nothing on a CPU."""
    if not clock.gpu:
        return {}
    planned = int(plan.facts["memory"]["total"])
    return {"gpu_memory_bytes": {"planned": planned, "peak": clock.gpu}}


def write_artefacts(
    plan: Plan,
    trained: tasks_trained.Trained,
    fingerprint: str,
    console: Console,
    *,
    rehearsal: bool = False,
) -> list[dict[str, Any]]:
    """Remove from the model what only training needed, then write and prove every format.

    The live model is freed if formats are made from what was sealed.
    """
    TASKS[plan.task].finish(plan, trained)
    # The processes that check the export need memory, too.
    heap.give_back()
    if plan.qat:
        qat_layers.switch(trained.model, on=False)
    names = ", ".join(plan.live_formats)
    console.phase(f"exporting {names} and reloading each in a fresh process")
    artefacts = run_end.export_run(plan, trained, fingerprint)
    artefacts += run_end.write_format(plan, trained, console, rehearsal=rehearsal)
    return sorted(artefacts, key=lambda artefact: plan.formats.index(artefact["kind"]))


def show_artefacts(artefacts: Iterable[Mapping[str, Any]], console: Console) -> None:
    """Show the artefacts, each with its size, what was proven, and what it loses."""
    for artefact in artefacts:
        console.event("artefact", **artefact)
        size = formatting.size(int(artefact.get("bytes", 0)))
        words = proof_limits.verdict(artefact)
        console.text(f"  {artefact.get('kind', '')}  {artefact.get('path', '')}  {size}  {words}")
        if losing := proof_limits.warning(artefact):
            console.warn(losing)


def remember(plan: Plan, folder: RunFolder) -> None:
    """Keep how fast the run was, for the plans of later ones."""
    rate = rates.of_run(plan, folder.record, read_metrics(folder.path))
    if rate is not None:
        rates.keep(plan, hardware.detect(), rate)
