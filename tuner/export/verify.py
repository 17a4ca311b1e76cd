"""The parity proof: an artefact, loaded by a fresh process, gives the live model's logits.

Run as `python -m tuner.export.verify job.json`, it loads each artefact with transformers and peft
alone and writes the logits of the probe rows. It shares no code with training: standard attention,
no packing, no state of the process that wrote the artefact.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tuner.errors import IntegrityError
from tuner.memory import PROBE_ROWS, PROBE_TOKENS

if TYPE_CHECKING:
    from tuner.plan import Plan


def probe_rows(plan: Plan) -> list[list[int]]:
    """Token ids of the first held-out rows, or of training rows where there are none."""
    rows = [row.example for row in plan.prepared.eval] or list(plan.prepared.train)
    return [list(row.input_ids[:PROBE_TOKENS]) for row in rows[:PROBE_ROWS]]


def stored_dtype(plan: Plan) -> str:
    """What the exported weights are stored and compared in: trained weights are float32."""
    return plan.dtype if plan.method.adapter else "float32"


@torch.no_grad()
def logits(model: Any, rows: Sequence[Sequence[int]], double: bool = False) -> list[torch.Tensor]:
    """Logits (tokens, vocabulary) of each row run alone, on the CPU.

    Args:
        model: in evaluation mode.
        rows: token ids.
        double: compute in float64, and put the model back to float32, which loses nothing. Folding
            an adapter into the base changes the order of the sums; in float32 that alone moves the
            logits by more than a wrong weight would have to.
    """
    experts = model.config._experts_implementation
    if double:
        # The grouped matrix product of mixtures of experts has no float64.
        model.set_experts_implementation("eager")
        model.double()
    try:
        results = [
            model(input_ids=torch.tensor([list(row)], device=model.device), use_cache=False)
            .logits[0]
            .cpu()
            for row in rows
        ]
    finally:
        if double:
            model.float()
            model.set_experts_implementation(experts)
    return [result if double else result.float() for result in results]


def fresh_differences(
    plan: Plan,
    folders: Mapping[str, Path],
    rows: Sequence[Sequence[int]],
    live: Mapping[str, Sequence[torch.Tensor]],
) -> dict[str, float]:
    """The largest difference of a logit between live model and reloaded artefact, per artefact.

    Raises:
        IntegrityError: the fresh process could not load an artefact.
    """
    with tempfile.TemporaryDirectory(dir=plan.output, prefix=".verify-") as scratch:
        job: dict[str, Any] = {
            "base": str(plan.base.folder),
            "dtype": stored_dtype(plan),
            "device": plan.device,
            "quantize": plan.recipe.model.quantize,
            "trust_remote_code": plan.recipe.model.trust_remote_code,
            "threads": torch.get_num_threads(),
            "rows": [list(row) for row in rows],
            "artefacts": {name: str(folder) for name, folder in folders.items()},
            "double": [name for name in folders if live[name][0].dtype == torch.float64],
            "result": f"{scratch}/logits.safetensors",
        }
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps(job), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "tuner.export.verify", str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        if done.returncode:
            raise IntegrityError(
                "an artefact cannot be loaded by a fresh process",
                (done.stderr.strip().splitlines() or ["no message"])[-1],
                "see run.log; the last checkpoint holds the trained weights",
            )
        fresh = load_file(job["result"])
    return {
        name: max(
            _difference(fresh[f"{name}.{number}"], tensor)
            for number, tensor in enumerate(live[name])
        )
        for name in folders
    }


def _difference(fresh: torch.Tensor, live: torch.Tensor) -> float:
    """The largest difference; infinite where it is none, since `max` would pass over a NaN."""
    if fresh.shape != live.shape:
        return float("inf")
    difference = float((fresh - live).abs().max())
    return difference if math.isfinite(difference) else float("inf")


def _load(job: Mapping[str, Any], kind: str, folder: str) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from tuner.model import without_cpu_packing

    arguments: dict[str, Any] = {
        "dtype": getattr(torch, job["dtype"]),
        "use_safetensors": True,
        "trust_remote_code": job["trust_remote_code"],
    }
    if job["quantize"] == "int8":
        arguments["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif job["quantize"] == "nf4":
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, job["dtype"]),
        )
    if job["quantize"] != "none":
        arguments["device_map"] = {"": job["device"]}
    if kind == "adapter":
        from peft import PeftModel

        base = AutoModelForCausalLM.from_pretrained(job["base"], **arguments)
        model = PeftModel.from_pretrained(base, folder)
        _refuse_other_keys(model, folder)
    else:
        arguments["output_loading_info"] = True
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **arguments)
        model, report = loaded
        _refuse_keys(report["missing_keys"], report["unexpected_keys"])
    if job["quantize"] == "none":
        model = model.to(job["device"])
    return without_cpu_packing(model).eval()


def _refuse_other_keys(model: Any, folder: str) -> None:
    """peft only warns of tensors that match no module: they would be trained and do nothing."""
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(model))
    with safe_open(f"{folder}/adapter_model.safetensors", "pt") as file:
        saved = set(file.keys())
    _refuse_keys(wanted - saved, saved - wanted)


def _refuse_keys(missing: Collection[str], unexpected: Collection[str]) -> None:
    if missing or unexpected:
        raise SystemExit(
            f"{len(missing)} tensors are missing and {len(unexpected)} match no module: "
            + ", ".join(sorted([*missing, *unexpected])[:4])
        )


def main() -> None:
    """The fresh process: load every artefact of a job and write its logits."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    result: dict[str, torch.Tensor] = {}
    for kind, folder in job["artefacts"].items():
        model = _load(job, kind, folder)
        for number, tensor in enumerate(logits(model, job["rows"], kind in job["double"])):
            result[f"{kind}.{number}"] = tensor.contiguous()
        del model
    save_file(result, job["result"])


if __name__ == "__main__":
    main()
