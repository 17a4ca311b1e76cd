"""The fresh process of the proof: what an artefact's files hold, and the logits that they give.

Run as `python -m tuner.export.proof.fresh_process job.json`, it compares each tensor of a merged
model with the method's formula, loads each artefact with transformers and peft alone, and writes
the logits of the probe rows. It shares no code with training and merging: standard attention, no
packing, no state of the process that wrote the artefact.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save_file

from tuner.errors import IntegrityError
from tuner.export.proof import measure, reload
from tuner.export.proof import rows as held
from tuner.export.proof import tensors as proof
from tuner.export.proof.measure import Probe, batch_of
from tuner.machine import heap, processes, waiting
from tuner.plan.memory.estimate import PROBE_ROWS
from tuner.record import seal

if TYPE_CHECKING:
    from tuner.plan.plan import Plan


def probe_rows(plan: Plan) -> list[Probe]:
    """Inputs of the first held-out rows, or of training rows where there are none, and then rows
    of random tokens: token ids by the name of the model's argument."""
    return held.of_plan(plan).rows[:PROBE_ROWS] + held.of_plan_random(plan).rows


def stored_dtype(plan: Plan) -> str:
    """What the exported weights are stored and compared in: trained weights are float32."""
    return plan.dtype if plan.method.adapter else "float32"


@torch.no_grad()
def logits(model: Any, rows: Sequence[Probe]) -> list[torch.Tensor]:
    """Logits (tokens, vocabulary) or (classes,) of each row run alone, on the CPU.

    Args:
        model: in evaluation mode.
        rows: token ids by the name of the argument.
    """
    return [model(**batch_of(row, 1, model.device)).logits[0].float().cpu() for row in rows]


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
    proofs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """All that a fresh process needs to know to prove some artefacts, as JSON."""
    return facts_of(plan) | {
        "base": str(plan.base.folder),
        "device": plan.device,
        "threads": torch.get_num_threads(),
        "rows": list(rows),
        "artefacts": {name: str(folder) for name, folder in folders.items()},
        "proofs": dict(proofs),
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
    proofs: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, list[torch.Tensor]], dict[str, Any]]:
    """What a fresh process finds of artefacts.

    Args:
        plan: of the run.
        folders: of the artefacts, by their format.
        rows: the probe rows.
        proofs: how the tensors of some of them are proven (see `proof.prove`).

    Returns:
        The logits of every row, and what was found of the tensors, by format.

    Raises:
        IntegrityError: the fresh process could not load an artefact.
    """
    found = in_fresh_process(job_of(plan, rows, folders, proofs), plan.output)
    each = {name: [found[f"{name}.{number}"] for number in range(len(rows))] for name in folders}
    return each, {name: unpack(found[f"{name}.proof"]) for name in proofs}


def pack(found: Mapping[str, Any]) -> torch.Tensor:
    """JSON as a tensor, to go where logits go."""
    return torch.tensor(list(json.dumps(found).encode()), dtype=torch.uint8)


def unpack(tensor: torch.Tensor) -> dict[str, Any]:
    """What `pack` was given."""
    found: dict[str, Any] = json.loads(bytes(tensor.tolist()))
    return found


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
    found: dict[str, torch.Tensor] = load(child("tuner.export.proof.fresh_process", job, folder))
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


def main() -> None:
    """The fresh process: prove the tensors that a job names, load every artefact, and write its
    logits: of every row, or, of a job that names places, at those."""
    from tuner.model.transformers_errors import quiet_libraries

    quiet_libraries()
    heap.keep_nothing()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    result: dict[str, torch.Tensor] = {}
    for kind, how in job.get("proofs", {}).items():
        result[f"{kind}.proof"] = pack(proof.prove(job, how))
    for kind, folder in job["artefacts"].items():
        model = reload.load(job, kind, folder)
        if targets := job.get("targets"):
            result[kind] = measure.read(model, measure.Held(job["rows"], targets))
        else:
            for number, tensor in enumerate(logits(model, job["rows"])):
                result[f"{kind}.{number}"] = tensor.contiguous()
        del model
    save_file(result, job["result"])


if __name__ == "__main__":
    waiting.begin()
    main()
