"""EXPORTERS: what a run leaves behind. One file and one row a format.

Every artefact is written aside, loaded by a fresh process with peft and transformers alone,
compared with the live model on probe rows, and only then sealed under its final name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tuner import manifest, seal
from tuner.errors import IntegrityError
from tuner.export import adapter, merged, verify
from tuner.methods import lora
from tuner.methods.lora import LoraOptions

if TYPE_CHECKING:
    from tuner.plan import Plan
    from tuner.training import Trained


@dataclass(frozen=True)
class Exporter:
    """How one format is written, and how near its logits must be to the live model's.

    Attributes:
        write: writes the format into an empty folder.
        limit: largest difference of a logit for a float32 model.
        limit_reduced: the same in bfloat16 and float16, whose own rounding is far larger.
        reorders: whether it computes the same sums in another order; then a float32 model is
            compared in float64.
        limit_converted: the limit where the start of the adapter was taken out of the base weights,
            which rounds every one of them (1.7e-5 on SmolLM2-135M, in float64).
    """

    write: Callable[[Plan, Trained, Path], None]
    limit: float
    limit_reduced: float
    reorders: bool
    limit_converted: float = 1e-4


# In the order of writing: merging changes the live model, so it comes last.
EXPORTERS: dict[str, Exporter] = {
    "adapter": Exporter(adapter.write, 1e-5, 0.05, reorders=False),
    "merged": Exporter(merged.write, 1e-4, 0.5, reorders=True),
}


def write(plan: Plan, trained: Trained, fingerprint: str) -> list[dict[str, Any]]:
    """Write, verify and seal every format of the plan.

    Args:
        plan: says which formats.
        trained: the live model; merged into its base afterwards, where that format is asked for.
        fingerprint: of the base, for the manifests.

    Returns:
        For each artefact: kind, path, sha256, bytes, verified, max_logit_difference.

    Raises:
        IntegrityError: an artefact is not what was trained; nothing stands under its name then.
    """
    formats = [name for name in EXPORTERS if name in plan.formats]
    done = [name for name in formats if manifest.is_sealed(plan.output / name)]
    todo = [name for name in formats if name not in done]
    if todo:
        probes = verify.probe_rows(plan)
        trained.model.eval()
        live = {name: _live(plan, trained, name, probes) for name in todo}
        extras: dict[str, dict[str, Any]] = {
            name: {"kind": name, "base": plan.base.name, "base_fingerprint": fingerprint}
            for name in todo
        }
        with contextlib.ExitStack() as stack:
            folders = {
                name: stack.enter_context(seal.seal(plan.output / name, extra=extras[name]))
                for name in todo
            }
            for name, folder in folders.items():
                EXPORTERS[name].write(plan, trained, folder)
            differences = verify.fresh_differences(plan, folders, probes, live)
            for name, difference in differences.items():
                _judge(plan, name, difference)
                extras[name] |= {"verified": True, "max_logit_difference": difference}
    return [_describe(plan.output / name) for name in formats]


def _live(plan: Plan, trained: Trained, name: str, probes: list[list[int]]) -> list[torch.Tensor]:
    reorders = EXPORTERS[name].reorders or _converted(plan)
    double = reorders and plan.method.adapter and plan.dtype == "float32"
    return verify.logits(trained.model, probes, double)


def _converted(plan: Plan) -> bool:
    method = plan.recipe.method
    return isinstance(method, LoraOptions) and method.init in lora.BASE_CHANGING_INITS


def _judge(plan: Plan, name: str, difference: float) -> None:
    exporter = EXPORTERS[name]
    limit = exporter.limit if plan.dtype == "float32" else exporter.limit_reduced
    if _converted(plan):
        limit = max(limit, exporter.limit_converted)
    if not difference <= limit:
        raise IntegrityError(
            f"the {name} artefact is not the model that was trained",
            f"reloaded in a fresh process its logits differ by up to {difference:.3g}, "
            f"{limit:.0e} is the limit; it was not kept",
            "the last checkpoint holds the trained weights; please report this with run.json",
        )


def _describe(folder: Path) -> dict[str, Any]:
    """The artefact as it stands in run.json; its sha256 is that of its weights or their list."""
    sealed = manifest.read_manifest(folder)
    weights = {
        name: entry for name, entry in sealed["files"].items() if name.endswith(".safetensors")
    }
    digest = next(iter(weights.values()))["sha256"] if len(weights) == 1 else None
    extra = sealed["extra"]
    return {
        "kind": extra["kind"],
        "path": str(folder),
        "sha256": digest or manifest.digest(weights),
        "bytes": sum(entry["bytes"] for entry in sealed["files"].values()),
        "verified": extra["verified"],
        "max_logit_difference": extra["max_logit_difference"],
    }
