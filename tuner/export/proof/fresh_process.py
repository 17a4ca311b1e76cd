"""The fresh process of the proof: the tensors in an artefact's files, their logits, its prompts.

Run as `python -m tuner.export.proof.fresh_process job.json`, it compares each tensor of a merged
model with the method's formula, loads each artefact with only transformers and peft, and writes
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
from tuner.export.proof import measure, prompts, reload
from tuner.export.proof import rows as held
from tuner.export.proof import tensors as proof
from tuner.export.proof.measure import Probe, batch_of
from tuner.machine import heap, processes, waiting
from tuner.plan.memory.estimate import PROBE_ROWS
from tuner.record import seal

if TYPE_CHECKING:
    from tuner.plan.plan import Plan


def probe_rows(plan: Plan) -> list[Probe]:
    """Return inputs of the first held-out rows, or of training rows if there are none, and then
    rows of random tokens: token ids by the name of the model's argument."""
    return held.of_plan(plan).rows[:PROBE_ROWS] + held.of_plan_random(plan).rows


def stored_dtype(plan: Plan) -> str:
    """Return the dtype that exported weights are stored and compared in: float32 if trained."""
    return plan.dtype if plan.method.adapter else "float32"


@torch.no_grad()
def logits(model: Any, rows: Sequence[Probe]) -> list[torch.Tensor]:
    """Return logits (tokens, vocabulary) or (classes,) of each row run alone, on the CPU.

    Args:
        model: in evaluation mode.
        rows: token ids by the name of the argument.
    """
    return [model(**batch_of(row, 1, model.device)).logits[0].float().cpu() for row in rows]


def facts_of(plan: Plan) -> dict[str, Any]:
    """Return how to load an artefact of a plan, on any machine: part of its manifest."""
    return {
        "auto_class": plan.head.auto_class,
        "head": plan.head.name,
        "num_labels": _num_labels(plan),
        "pad_token_id": plan.tokenizer.pad_token_id,
        "dtype": stored_dtype(plan),
        "quantize": plan.recipe.model.quantize,
        "qat": plan.recipe.train.qat,
        "trust_remote_code": plan.recipe.model.trust_remote_code,
        **({"classifier": kept} if (kept := plan.prepared.classifier) else {}),
    }


def job_of(
    plan: Plan,
    rows: Sequence[Probe],
    folders: Mapping[str, Path],
    proofs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return all that a fresh process needs to prove some artefacts, as JSON."""
    return facts_of(plan) | {
        "base": str(plan.base.folder),
        "below": [each.job() for each in plan.base.folded],
        "device": plan.device,
        "threads": torch.get_num_threads(),
        "rows": list(rows),
        "artefacts": {name: str(folder) for name, folder in folders.items()},
        "proofs": dict(proofs),
        "prompts": prompts.of_plan(plan) if folders else [],
    }


def _num_labels(plan: Plan) -> int:
    """Return the outputs of a head that was added to the base; 0 without one."""
    if not plan.head.added:
        return 0
    return len(plan.prepared.labels) if plan.head.name == "classes" else 1


def fresh_logits(
    plan: Plan,
    folders: Mapping[str, Path],
    rows: Sequence[Probe],
    proofs: Mapping[str, Mapping[str, Any]],
) -> dict[str, tuple[list[torch.Tensor], dict[str, Any] | None, list[list[str]]]]:
    """Examine artefacts in a fresh process.

    Args:
        plan: of the run.
        folders: of the artefacts, by their format.
        rows: the probe rows.
        proofs: how to prove the tensors of some of them (see `tensors.prove`).

    Returns:
        The logits of every row, and what was found in the tensors and prompts, by format.

    Raises:
        IntegrityError: the fresh process could not load an artefact.
    """
    found = in_fresh_process(job_of(plan, rows, folders, proofs), plan.output)
    return {
        name: (
            [found[f"{name}.{number}"] for number in range(len(rows))],
            unpack(found[f"{name}.proof"]) if name in proofs else None,
            other_prompts(found, name),
        )
        for name in folders
    }


def other_prompts(found: Mapping[str, torch.Tensor], name: str) -> list[list[str]]:
    """Return the prompts that an artefact writes differently (see `prompts.compared`)."""
    different: list[list[str]] = unpack(found[f"{name}.prompts"])["different"]
    return different


def pack(found: Mapping[str, Any]) -> torch.Tensor:
    """Return JSON as a tensor, to be written with the logits."""
    return torch.tensor(list(json.dumps(found).encode()), dtype=torch.uint8)


def unpack(tensor: torch.Tensor) -> dict[str, Any]:
    """Return what `pack` was called with."""
    found: dict[str, Any] = json.loads(bytes(tensor.tolist()))
    return found


def in_fresh_process(job: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Run a job of this module in a separate process.

    Args:
        job: see `job_of`.
        folder: for its temporary files.

    Returns:
        What `main` wrote.

    Raises:
        IntegrityError: it failed; with the reason.
    """
    found: dict[str, torch.Tensor] = load(child("tuner.export.proof.fresh_process", job, folder))
    return found


def child(module: str, job: dict[str, Any], folder: Path) -> bytes:
    """Run a module of ours in a separate process.

    Args:
        module: its `main` reads the job, whose file is its argument, and writes to job["result"].
        job: its input, as JSON.
        folder: for its temporary files.

    Returns:
        What it wrote.

    Raises:
        IntegrityError: it failed; with the reason.
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
    """Prove the tensors that a job names, load every artefact, write its logits (of every row, or
    only at the positions that the job names) and compare its prompts."""
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
            result[kind] = measure.read(model, measure.ProbeRows(job["rows"], targets))
        else:
            for number, tensor in enumerate(logits(model, job["rows"])):
                result[f"{kind}.{number}"] = tensor.contiguous()
        result[f"{kind}.prompts"] = pack(prompts.compared(job, kind, Path(folder)))
        del model
    save_file(result, job["result"])


if __name__ == "__main__":
    waiting.begin()
    main()
