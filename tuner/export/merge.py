"""From an adapter to a whole model: the tuned model is read as the measure of every artefact, then
its adapter is folded into the weights that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner import manifest, seal, token_rows
from tuner.export import loading, measure, merged
from tuner.export.double import in_double
from tuner.export.measure import Held
from tuner.export_formats import OF_ADAPTER, Format

if TYPE_CHECKING:
    from tuner.base import Base
    from tuner.console import Console
    from tuner.export.work import Settings, Work

# Places of the held-out rows at which a merge is compared in float64.
FEW_PLACES = 64


def measure_and_merge(
    work: Work,
    rows: list[Format],
    settings: Settings,
    scratch: Path,
    base: Base | None,
    console: Console,
) -> torch.Tensor | None:
    """Read the tuned model and the base, and have the merged model lie in `work.merged`.

    Returns:
        The tuned model's logits in float64 on a few rows, where an exact merge is asked for.
    """
    origin, job = work.origin, work.job
    kind = "adapter" if origin.adapter else "merged"
    console.phase("measuring the tuned model and its base")
    model = loading.load(job, kind, str(origin.folder))
    work.tuned = measure.read(model, work.both, console.tick)
    compared = base is not None and not job["num_labels"]
    if origin.adapter and compared:
        with model.disable_adapter():
            work.base = measure.read(model, work.both)
    elif compared:
        whole = loading.base(job)
        token_rows.grow(whole, work.vocabulary_rows)
        work.base = measure.read(whole, work.both)
        del whole
    exact = None
    plain = job["dtype"] == "float32" and job["quantize"] == "none"
    if plain and any(row.name == "merged" for row in rows):
        with in_double(model):
            exact = measure.read(model, few(work))
    if not origin.adapter:
        work.merged = origin.folder
    elif any(row.name not in OF_ADAPTER for row in rows):
        ready = origin.folder.parent / "merged"
        if manifest.is_sealed(ready) and origin.run and job["quantize"] == "none":
            seal.verify(ready)
            work.merged = ready
        else:
            console.phase("folding the adapter into the base")
            work.merged = scratch / "merged"
            whole = merged_into(work, model, settings.onto)
            merged.save(whole, work.merged, work.name, work.tokenizer, work.stops)
    return exact


def merged_into(work: Work, model: Any, onto: str) -> Any:
    """The merged model; for a run on a quantized base, on the weights that are asked for.

    Merging into the original weights, which the adapter was never trained on, may be nearer or not
    (artidoro/qlora#28): both are measured, and the nearer is taken where nothing is asked for.
    """
    if work.job["quantize"] == "none":
        return merged.fold(model)
    divergences, models = {}, {}
    for choice in ("dequantized", "original") if onto == "auto" else (onto,):
        if choice == "original":
            base = loading.base(work.job | {"quantize": "none"})
        else:
            base = loading.base(work.job).dequantize().to(getattr(torch, work.job["dtype"]))
        whole = merged.fold(token_rows.put_on(base, work.origin.folder)).eval()
        divergences[choice] = measure.divergence(work.tuned, measure.read(whole, work.both))
        models[choice] = whole
    chosen = min(divergences, key=lambda name: divergences[name])
    work.notes |= {"merged_onto": chosen, "kl_by_base_weights": divergences}
    return models[chosen]


def few(work: Work) -> Held:
    """The rows on which an exact merge is compared in float64."""
    first = work.held.limited(FEW_PLACES)
    return Held(first.rows + work.random.rows, first.targets + work.random.targets)
