"""From an adapter to a whole model: the logits of the tuned model are the reference for every
artefact, then its adapter is merged into the weights that are asked for."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner.export import merged
from tuner.export.proof import measure, noise, reload
from tuner.machine import heap
from tuner.model import embedding_rows, fold
from tuner.recipe.formats import ExportFormat
from tuner.record import manifest

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.export.job import Settings, Work
    from tuner.model.base import Base


def measure_and_merge(
    work: Work,
    rows: list[ExportFormat],
    settings: Settings,
    scratch: Path,
    base: Base | None,
    console: Console,
) -> None:
    """Read the tuned model and the base, and write the merged model to `work.merged`."""
    origin, job = work.origin, work.job
    kind = "merged" if origin.whole else "adapter"
    console.phase("measuring the tuned model and its base")
    model = reload.load(job, kind, str(origin.folder))
    work.tuned = measure.read(model, work.both, console.tick)
    work.written[kind] = (work.tuned, noise.measured(model, work.both.rows))
    compared = base is not None and not job["num_labels"]
    if compared and not origin.whole:
        with model.disable_adapter():
            work.base = measure.read(model, work.both)
    elif compared:
        untouched = reload.base(job)
        embedding_rows.grow(untouched, work.vocabulary_rows)
        work.base = measure.read(untouched, work.both)
        del untouched
    if origin.whole:
        work.merged = origin.folder
    elif any(not row.of_adapter for row in rows):
        asked = any(row.name == "merged" for row in rows)
        whole: Any = None
        if not _ready(work):
            console.phase("merging the adapter into the base")
            work.merged = scratch / "merged"
            if job["quantize"] != "none":
                # Its base is loaded again: a GPU may have no room for both.
                model = None
                gc.collect()
                heap.give_back()
            whole = merged_into(work, model, settings.onto)
            merged.save(whole, work.merged, work.name, work.tokenizer, work.stops)
        elif asked:
            del model
            whole = reload.load(job, "merged", str(work.merged))
        if asked:
            read = measure.read(whole.eval(), work.both)
            work.written["merged"] = (read, noise.measured(whole, work.both.rows))


def _ready(work: Work) -> bool:
    """Use the merged model of the run if it was proven tensor by tensor; return whether it was."""
    origin = work.origin
    ready = origin.folder.parent / "merged"
    if not (manifest.is_sealed(ready) and origin.run and work.job["quantize"] == "none"):
        return False
    if "proof" not in manifest.read_manifest(ready)["extra"]:
        return False
    manifest.verify(ready)
    work.merged = ready
    return True


def merged_into(work: Work, model: Any, onto: str) -> Any:
    """Return the merged model; for a run on a quantized base, on the weights that are asked for.

    Merging into the original weights, which the adapter was never trained on, may be closer or not
    (artidoro/qlora#28): with `auto` both are measured, and the closer one is taken.
    """
    if work.job["quantize"] == "none":
        return fold.fold(model)
    divergences, models = {}, {}
    for choice in ("dequantized", "original") if onto == "auto" else (onto,):
        if choice == "original":
            base = reload.base(work.job | {"quantize": "none"})
        else:
            base = reload.base(work.job).dequantize().to(getattr(torch, work.job["dtype"]))
        whole = fold.fold(embedding_rows.load_adapter_onto(base, work.origin.folder)).eval()
        divergences[choice] = measure.divergence(work.tuned, measure.read(whole, work.both))
        # The other choice needs the room.
        models[choice] = whole.to("cpu")
        del base, whole
        gc.collect()
        heap.give_back()
    chosen = min(divergences, key=lambda name: divergences[name])
    work.notes |= {"merged_onto": chosen, "kl_by_base_weights": divergences}
    return models[chosen].to(work.job["device"])
