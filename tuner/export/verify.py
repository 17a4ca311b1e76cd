"""The parity proof: an artefact, loaded by a fresh process, gives the live model's logits.

Run as `python -m tuner.export.verify job.json`, it loads each artefact with transformers and peft
alone and writes the logits of the probe rows. It shares no code with training: standard attention,
no packing, no state of the process that wrote the artefact.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save_file

from tuner import heap, processes, seal
from tuner.errors import IntegrityError
from tuner.export import held, loading, measure
from tuner.export.double import in_double
from tuner.memory import PROBE_ROWS

if TYPE_CHECKING:
    from tuner.plan import Plan


Probe = dict[str, list[int]]


def probe_rows(plan: Plan) -> list[Probe]:
    """Inputs of the first held-out rows, or of training rows where there are none, and then rows
    of random tokens: token ids by the name of the model's argument."""
    return held.of_plan(plan).rows[:PROBE_ROWS] + held.of_plan_random(plan).rows


def stored_dtype(plan: Plan) -> str:
    """What the exported weights are stored and compared in: trained weights are float32."""
    return plan.dtype if plan.method.adapter else "float32"


@torch.no_grad()
def logits(model: Any, rows: Sequence[Probe], double: bool = False) -> list[torch.Tensor]:
    """Logits (tokens, vocabulary) or (classes,) of each row run alone, on the CPU.

    Args:
        model: in evaluation mode.
        rows: token ids by the name of the argument.
        double: compute in float64, and put the model back to float32, which loses nothing. Folding
            an adapter into the base changes the order of the sums; in float32 that alone moves the
            logits by more than a wrong weight would have to.
    """
    with in_double(model, double):
        results = [
            model(**{name: row_tensor(name, ids, model.device) for name, ids in row.items()})
            .logits[0]
            .cpu()
            for row in rows
        ]
    return [result if double else result.float() for result in results]


def row_tensor(name: str, ids: Sequence[int], device: Any) -> torch.Tensor:
    """One row of a batch; `task_ids` have one number a row."""
    tensor = torch.tensor(list(ids), device=device)
    return tensor if name == "task_ids" else tensor[None]


def facts_of(plan: Plan) -> dict[str, Any]:
    """How an artefact of a plan is loaded, whoever loads it and where: part of its manifest."""
    return {
        "auto_class": plan.head.auto_class,
        "head": plan.head.name,
        "num_labels": _num_labels(plan),
        "pad_token_id": plan.tokenizer.pad_token_id,
        "dtype": stored_dtype(plan),
        "quantize": plan.recipe.model.quantize,
        "qat": plan.recipe.train.qat,
        "trust_remote_code": plan.recipe.model.trust_remote_code,
    }


def job_of(
    plan: Plan,
    rows: Sequence[Probe],
    folders: Mapping[str, Path],
    live: Mapping[str, Sequence[torch.Tensor]],
) -> dict[str, Any]:
    """All that a fresh process needs to know to compute the logits of some artefacts, as JSON."""
    return facts_of(plan) | {
        "base": str(plan.base.folder),
        "device": plan.device,
        "threads": torch.get_num_threads(),
        "rows": list(rows),
        "artefacts": {name: str(folder) for name, folder in folders.items()},
        "double": [name for name in folders if live[name][0].dtype == torch.float64],
    }


def _num_labels(plan: Plan) -> int:
    """Outputs of a head that was added to the base; 0 where none was."""
    if not plan.head.added:
        return 0
    return len(plan.prepared.labels) if plan.head.name == "classes" else 1


def fresh_logits(
    plan: Plan,
    folders: Mapping[str, Path],
    rows: Sequence[Probe],
    live: Mapping[str, Sequence[torch.Tensor]],
) -> dict[str, list[torch.Tensor]]:
    """The logits of every probe row by artefacts that a fresh process has loaded, per artefact.

    Raises:
        IntegrityError: the fresh process could not load an artefact.
    """
    found = in_fresh_process(job_of(plan, rows, folders, live), plan.output)
    return {
        name: [found[f"{name}.{number}"] for number in range(len(live[name]))] for name in folders
    }


def in_fresh_process(job: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Run a job of this module in a process of its own.

    Args:
        job: see `job_of`.
        folder: where its files may lie meanwhile.

    Returns:
        What `main` wrote.

    Raises:
        IntegrityError: it failed; says why.
    """
    found: dict[str, torch.Tensor] = load(child("tuner.export.verify", job, folder))
    return found


def child(module: str, job: dict[str, Any], folder: Path) -> bytes:
    """Run a module of ours in a process of its own.

    Args:
        module: its `main` reads the job, whose file is its argument, and writes to job["result"].
        job: what it is told.
        folder: where its files may lie meanwhile.

    Returns:
        What it wrote.

    Raises:
        IntegrityError: it failed; says why.
    """
    with seal.scratch(folder) as aside:
        result, file = aside / "result", aside / "job.json"
        file.write_text(json.dumps(job | {"result": str(result)}), "utf-8")
        done = processes.fresh(module, str(file))
        if done.returncode:
            raise IntegrityError(
                "an artefact cannot be loaded by a fresh process",
                (done.stderr.strip().splitlines() or ["no message"])[-1],
                "see run.log; the last checkpoint holds the trained weights",
            )
        return result.read_bytes()


def largest_difference(fresh: Sequence[torch.Tensor], live: Sequence[torch.Tensor]) -> float:
    """The largest difference of a logit of all rows."""
    return max(_difference(one, other) for one, other in zip(fresh, live, strict=True))


def largest_difference_beyond(
    fresh: Sequence[torch.Tensor],
    exact: Sequence[torch.Tensor],
    single: Sequence[torch.Tensor],
) -> float:
    """As `largest_difference`, of the places where it is more than float32's own rounding.

    Some random tokens put a model where the last bit of its weights moves a logit by 0.01; there a
    merge, which rounds the weights anew, cannot be nearer than the model is to itself.

    Args:
        fresh: (places, entries) in float64 by an artefact, for every row.
        exact: in float64 by the live model.
        single: by the live model in float32.
    """
    largest = 0.0
    for one, other, rounded in zip(fresh, exact, single, strict=True):
        if not math.isfinite(_difference(one, other)):
            return float("inf")
        moved, own = ((tensor - other).abs().amax(-1) for tensor in (one, rounded))
        largest = max(largest, float(torch.where(moved > own, moved, 0.0).max()))
    return largest


def _difference(fresh: torch.Tensor, live: torch.Tensor) -> float:
    """The largest difference; infinite where it is none, since `max` would pass over a NaN."""
    if fresh.shape != live.shape:
        return float("inf")
    difference = float((fresh - live).abs().max())
    return difference if math.isfinite(difference) else float("inf")


def main() -> None:
    """The fresh process: load every artefact of a job and write its logits: of every row, or, of a
    job that names places, at those."""
    from tuner.model import quiet_libraries

    quiet_libraries()
    heap.keep_nothing()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    result: dict[str, torch.Tensor] = {}
    for kind, folder in job["artefacts"].items():
        model = loading.load(job, kind, folder)
        double = kind in job["double"]
        if targets := job.get("targets"):
            with in_double(model, double, job.get("shard")):
                result[kind] = measure.read(model, measure.Held(job["rows"], targets))
        else:
            for number, tensor in enumerate(logits(model, job["rows"], double)):
                result[f"{kind}.{number}"] = tensor.contiguous()
        del model
    save_file(result, job["result"])


if __name__ == "__main__":
    main()
