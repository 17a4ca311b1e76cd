"""EXPORTERS: what a run leaves behind. One file and one row a format.

Every artefact is written aside, loaded by a fresh process with peft and transformers alone,
compared with the live model on probe rows, and only then sealed under its final name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner import manifest, provenance, seal
from tuner.errors import IntegrityError
from tuner.export import adapter, card, held, merged, verdict, verify, virtual_tokens
from tuner.methods import lora

if TYPE_CHECKING:
    from tuner.plan import Plan
    from tuner.training import Trained


@dataclass(frozen=True)
class Exporter:
    """How one format is written, and how near its logits must be to the live model's.

    Attributes:
        write: writes the format into an empty folder.
        limit: largest difference of a logit for a float32 model.
        limit_reduced: the same in bfloat16 and float16, as a share of the largest logit: their
            rounding is far larger, and grows with what is rounded.
        reorders: whether it computes the same sums in another order; then a float32 model is
            compared in float64.
    """

    write: Callable[[Plan, Trained, Path], None]
    limit: float
    limit_reduced: float
    reorders: bool


# In the order of writing: merging changes the live model, so it comes last.
EXPORTERS: dict[str, Exporter] = {
    "adapter": Exporter(adapter.write, *verdict.EXACT["adapter"], reorders=False),
    "virtual_tokens": Exporter(virtual_tokens.write, *verdict.EXACT["adapter"], reorders=False),
    "merged": Exporter(merged.write, *verdict.EXACT["merged"], reorders=True),
}


# Those with a card beside them.
CARDS = ("adapter", "merged")


def write(plan: Plan, trained: Trained, fingerprint: str) -> list[dict[str, Any]]:
    """Write, verify and seal every format of the plan that is written from the live model.

    Args:
        plan: says which formats.
        trained: the live model; merged into its base afterwards, where that format is asked for.
        fingerprint: of the base, for the manifests.

    Returns:
        For each artefact: kind, path, sha256, bytes, verified, max_logit_difference.

    Raises:
        IntegrityError: an artefact is not what was trained; nothing stands under its name then.
    """
    held.write(plan)
    formats = [name for name in EXPORTERS if name in plan.live_formats]
    done = [name for name in formats if manifest.is_sealed(plan.output / name)]
    for name in done:
        seal.verify(plan.output / name)
    todo = [name for name in formats if name not in done]
    if todo:
        probes = verify.probe_rows(plan)
        trained.model.eval()
        doubled = [name for name in todo if _doubled(plan, name)]
        single = verify.logits(trained.model, probes)
        exact = verify.logits(trained.model, probes, double=True) if doubled else []
        live = {name: exact if name in doubled else single for name in todo}
        extras: dict[str, dict[str, Any]] = {
            name: {
                "kind": name,
                "base": plan.base.name,
                "base_fingerprint": fingerprint,
                "facts": verify.facts_of(plan),
                "versions": provenance.versions(("torch", "transformers", "peft")),
            }
            for name in todo
        }
        refused: list[IntegrityError] = []
        with contextlib.ExitStack() as stack:
            each = {name: stack.enter_context(contextlib.ExitStack()) for name in todo}
            folders = {
                name: each[name].enter_context(seal.seal(plan.output / name, extra=extras[name]))
                for name in todo
            }
            for name, folder in folders.items():
                EXPORTERS[name].write(plan, trained, folder)
                if name in CARDS:
                    facts = verify.facts_of(plan)
                    card.write(folder, name, plan.base.name, facts, card.of_run(plan, trained))
            fresh = verify.fresh_logits(plan, folders, probes, live)
            for name in folders:
                difference = verify.largest_difference(fresh[name], live[name])
                beyond = difference
                if name in doubled:
                    beyond = verify.largest_difference_beyond(fresh[name], live[name], single)
                extras[name] |= {
                    "verified": True,
                    "max_logit_difference": difference,
                    "witness": _witness(plan, live[name], fresh[name]),
                }
                # What is proven is kept, whatever becomes of the others.
                try:
                    with each[name]:
                        _judge(plan, name, difference, beyond, largest=_largest(live[name]))
                except IntegrityError as error:
                    refused.append(error)
        if refused:
            raise _with_the_proven(plan, refused[0], formats)
    return [describe(plan.output / name) for name in formats]


def _with_the_proven(plan: Plan, error: IntegrityError, formats: Sequence[str]) -> IntegrityError:
    """The refusal of an artefact, with how to end the run on those that stand."""
    kept = [name for name in formats if manifest.is_sealed(plan.output / name)]
    if not kept:
        return error
    names = ",".join(kept)
    return IntegrityError(
        error.what,
        error.why,
        f"kept: {', '.join(kept)}; --resume --set export.formats=[{names}] ends the run with what "
        "stands; please report this with run.json",
    )


def _doubled(plan: Plan, name: str) -> bool:
    """Whether an artefact is compared in float64."""
    return _kin(plan, name).reorders and plan.method.adapter and plan.dtype == "float32"


def _witness(
    plan: Plan, live: Sequence[torch.Tensor], fresh: Sequence[torch.Tensor]
) -> dict[str, Any]:
    """The random rows come last among the probes."""
    rows = held.of_plan_random(plan)
    first = -len(rows.rows)
    tuned, found = (held.at(rows, logits[first:]) for logits in (live, fresh))
    return held.witness(rows, tuned, found)


def _kin(plan: Plan, name: str) -> Exporter:
    """The exporter whose limits hold for this artefact.

    Taking the start of an adapter out of the base weights (PiSSA, OLoRA) rounded every one of them
    (1.7e-5 in the logits of SmolLM2-135M): its conversion is no nearer than a merged model.
    """
    return EXPORTERS["merged" if lora.moves_base(plan.recipe.method) else name]


def _largest(logits: Sequence[torch.Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in logits)


def _judge(plan: Plan, name: str, difference: float, beyond: float, largest: float) -> None:
    exporter = _kin(plan, name)
    limit = exporter.limit
    if verify.stored_dtype(plan) != "float32":
        limit = exporter.limit_reduced * largest
    if not beyond <= limit:
        raise IntegrityError(
            f"the {name} artefact is not the model that was trained",
            f"reloaded in a fresh process its logits differ by up to {difference:.3g}, "
            f"{limit:.1g} is the limit; it was not kept",
            "the last checkpoint holds the trained weights; please report this with run.json",
        )


def describe(folder: Path) -> dict[str, Any]:
    """Return an artefact as run.json has it: its sha256 is that of its weights or of their list,
    and what was measured of a format that is not written from the live model is there too."""
    sealed = manifest.read_manifest(folder)
    weights = {
        name: entry
        for name, entry in sealed["files"].items()
        if name.endswith((".safetensors", ".gguf"))
    }
    digest = next(iter(weights.values()))["sha256"] if len(weights) == 1 else None
    extra = sealed["extra"]
    return {
        **(extra.get("figures") or {}),
        "kind": extra["kind"],
        "path": str(folder),
        "sha256": digest or manifest.digest(weights),
        "bytes": sum(entry["bytes"] for entry in sealed["files"].values()),
        "verified": extra["verified"],
        "max_logit_difference": extra["max_logit_difference"],
    }
