"""Whole runs of the command: proven by a real child, stopped by a signal, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.gpu import child, runs
from tests.gpu.program import Bench

CASES: dict[str, dict[str, Any]] = {
    "lora": {"method": {"name": "lora", "r": 4}},
    "nf4": {"method": {"name": "lora", "r": 4}, "model": {"quantize": "nf4"}},
}
# Enough for the signal to come before the last one.
STEPS, STOPPED = 12, 2


def check(bench: Bench) -> None:
    """LoRA, then on a base in 4 bits: a run, and the same run stopped by SIGTERM and resumed."""
    for name, sections in CASES.items():
        if bench.fake and name != "lora":
            bench.say(**{name: "left to `coverage` on a fake GPU: ten processes start here"})
            continue
        folder = Path(bench.folder) / f"runs-{name}"
        folder.mkdir()
        recipe = runs.write(folder, **sections, train={"max_steps": STEPS})
        start = ["-m", "tuner"]
        if bench.fake:
            start = [str(Path(child.__file__).resolve()), "tuner"]
        tuner = [sys.executable, *start, "lora", "--recipe", str(recipe)]
        reference = _finish(tuner, folder / "reference")
        proven = {each["kind"]: each["verified"] for each in reference["artefacts"]}
        bench.say(**{f"{name}_proven": proven})
        if not proven or not all(proven.values()):
            bench.missed.append(f"{name}: not every artefact is proven: {proven}")
        _stop(tuner, folder / "run")
        resumed = _finish(tuner, folder / "run", "--resume")
        assert resumed["resumes"], "the second start did not resume"
        # FlashAttention's backward adds in no fixed order.
        bench.bar(f"{name}_resumed_differs_by", _apart(folder), most=2e-2)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{child.ROOT}:{os.environ.get('PYTHONPATH', '')}"}


def _finish(tuner: list[str], folder: Path, *options: str) -> dict[str, Any]:
    """Run the command to its end; return the record."""
    command = [*tuner, "--output", str(folder), *options]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-1500:]}")
    record: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
    device = record["plan"]["values"]["run.device"]["value"]
    assert device == "cuda", device
    return record


def _stop(tuner: list[str], folder: Path) -> None:
    """Start the command and send SIGTERM after a step; it seals that step and ends."""
    with (folder.parent / "log").open("wb") as log:
        command = [*tuner, "--output", str(folder)]
        process = subprocess.Popen(command, env=_environment(), stdout=log, stderr=log)
        metrics = folder / "metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and metrics.read_text("utf-8").count("\n") >= STOPPED:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.01)
        code = process.wait(timeout=120)
    # It may have been done before the signal came.
    assert code in (0, 128 + signal.SIGTERM), (folder.parent / "log").read_text()[-1500:]
    if code == 0:
        raise RuntimeError("the run ended before the signal came; give it more steps")


def _apart(folder: Path) -> float:
    """Return the largest difference of the two adapters, as a share of the largest value."""
    one, other = (
        load_file(folder / name / "adapter" / "adapter_model.safetensors")
        for name in ("run", "reference")
    )
    assert one.keys() == other.keys()
    tiny = torch.finfo(torch.float32).tiny
    return max(
        float((one[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(tiny))
        for name in one
    )
