"""`python -m tests.bench`: run the contenders in turn on a CPU, compare, write table and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench import report, rows

NAMES = ("tuner", "plain", "trl-padded", "trl-packed", "tuner-bf16", "trl-bf16", "trl")
# They take long; once tells enough.
_SLOW = ("trl",)
# No step may take longer than this; a contender that hangs is an error.
_PATIENCE_SECONDS = 3600
_PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--base", default="smollm2-135m", help="alias or folder of the base")
    parser.add_argument("--rows", type=Path, help="instruction rows to use instead (JSON lines)")
    parser.add_argument("--method", default="lora", choices=["lora", "full"])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="the first is not timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--slow", type=int, default=1, help="repeats of trl's defaults")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="2 steps, once")
    given = parser.parse_args()
    if given.quick:
        given.steps, given.repeats = 2, 1
    return given


def write_recipe(given: argparse.Namespace, folder: Path) -> Path:
    """The recipe that all follow, with its rows beside it."""
    made = folder / "rows.jsonl"
    if given.rows:
        made.write_bytes(given.rows.read_bytes())
    else:
        count = given.batch_size * given.steps
        items = rows.alpaca_like(count)
        made.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    method = {"name": given.method, **({"r": given.rank} if given.method == "lora" else {})}
    recipe = {
        "model": {"base": given.base, "dtype": "auto"},
        "data": {"train": "rows.jsonl", "eval": 0, "template": "instruction", "long": "truncate"},
        "method": method,
        "train": {
            "batch_size": given.batch_size,
            "max_steps": given.steps,
            "epochs": 1000,
            "scheduler": "constant",
            "warmup": 0,
            "learning_rate": 2e-4,
            "logging_steps": 1,
        },
        "eval": {"enabled": False, "samples": 0},
    }
    path = folder / "recipe.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(recipe), "utf-8")
    return path


def run(name: str, folder: Path, repeat: int) -> dict[str, Any]:
    """Start a contender, listen until its last step, and end it there.

    Returns:
        Seconds from the start to `ready` and to the first step, seconds and losses by step, and
        the peak of its resident memory in bytes.
    """
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    command = [sys.executable, "-m", "tests.bench.contender", name, str(folder)]
    if name in ("tuner", "tuner-bf16"):
        output = str(folder / f"{name}-run-{repeat}")
        recipe = str(folder / "recipe.yaml")
        command = [sys.executable, "-m", "tuner", "sft", "--recipe", recipe, "--json"]
        command += ["--output", output]
        command += ["--set", "model.dtype=bfloat16"] if name == "tuner-bf16" else []
    log = folder / f"{name}-{repeat}.log"
    losses, moments, ready = list[float](), list[float](), 0.0
    with open(log, "w", encoding="utf-8") as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8")
        try:
            # Should memory run out, this is what is to go.
            Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
            assert child.stdout is not None
            for line in child.stdout:
                event = json.loads(line) if line.startswith("{") else {}
                now = time.perf_counter() - start
                if _is_ready(event):
                    ready = now
                elif event.get("event") in ("step", "progress"):
                    losses.append(event.get("loss", event.get("metrics", {}).get("loss")))
                    moments.append(now)
                if len(losses) == facts["steps"]:
                    break
            peak = _peak_memory(child.pid)
        finally:
            child.kill()
            child.wait()
    if len(losses) < facts["steps"]:
        raise SystemExit(f"{name} ended early:\n{log.read_text('utf-8')[-3000:]}")
    return {
        "name": name,
        "ready_seconds": ready,
        "first_step_seconds": moments[0],
        "step_seconds": [b - a for a, b in pairwise(moments)],
        "losses": losses,
        "peak_memory_bytes": peak,
    }


def _is_ready(event: dict[str, Any]) -> bool:
    said = str(event.get("name", ""))
    return event.get("event") == "ready" or said.startswith("training ")


def _peak_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def limit() -> float:
    """FLOP a second of a matrix product in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.limit"]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return float(json.loads(said)["flops"])


def main() -> int:
    """Measure in turn; 1 where the contenders did not do the same."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="tuner-bench-") as place:
        folder = Path(place)
        facts = rows.prepare(write_recipe(given, folder), folder / "tokens.jsonl")
        if facts["device"] != "cpu":
            raise SystemExit("this compares on a CPU, in float32; on a GPU: python -m tests.gpu")
        (folder / "facts.json").write_text(json.dumps(facts), "utf-8")
        limits, runs = list[float](), list[dict[str, Any]]()
        for repeat in range(given.repeats):
            limits.append(limit())
            # Each contender comes first in turn: what changes with time hits all alike.
            turn = repeat % len(given.only)
            for name in given.only[turn:] + given.only[:turn]:
                if name not in _SLOW or repeat < given.slow:
                    runs.append(run(name, folder, repeat))
                    print(report.line(runs[-1], facts), flush=True)
    result = report.summary(facts, limits, runs)
    result["machine"] = {
        "cpu_cores": len(os.sched_getaffinity(0)),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "architecture": platform.machine(),
        "versions": {name: version(name) for name in _PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }
    print("\n" + report.table(result))
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    for problem in result["problems"]:
        print(f"NOT COMPARABLE: {problem}", file=sys.stderr)
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
