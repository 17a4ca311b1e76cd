"""Medians, ratios, and whether the contenders did the same work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

# How far losses of the same updates may lie apart: rounding in float32; in bfloat16 by its 8 bits.
_TOLERANCE = {"trl": 0.05, "trl-bf16": 0.05, "tuner-bf16": 0.05}
_TOLERANCE_FLOAT32 = 5e-4
_OURS = "tuner"


def line(run: dict[str, Any], facts: dict[str, Any]) -> str:
    """One run in one line."""
    losses = " ".join(f"{loss:.6f}" for loss in run["losses"])
    rate = _rate(run, facts)
    memory = run["peak_memory_bytes"] / 2**30
    return (
        f"{run['name']:<11} {rate:8.1f} tokens/s  {memory:6.2f} GiB  "
        f"ready after {run['ready_seconds']:.1f} s  first step {run['first_step_seconds']:.1f} s  "
        f"losses {losses}"
    )


def _rate(run: dict[str, Any], facts: dict[str, Any]) -> float:
    """Real tokens a second, the first step left out."""
    return float(sum(facts["tokens"][1:]) / sum(run["step_seconds"]))


def problems(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Whose losses are not those of the first run: it had other rows, updates or weights."""
    reference = runs[0]
    found = []
    for run in runs[1:]:
        names = (reference["name"], run["name"])
        allowed = max(_TOLERANCE.get(name, _TOLERANCE_FLOAT32) for name in names)
        pairs = enumerate(zip(reference["losses"], run["losses"], strict=True), 1)
        for step, (expected, loss) in pairs:
            if not abs(loss - expected) <= allowed * abs(expected):
                said = f"{run['name']} has loss {loss:.6f} at step {step}"
                found.append(f"{said}, {reference['name']} {expected:.6f}")
    return found


def summary(
    facts: dict[str, Any], limits: Sequence[float], runs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """All figures: medians over the repeats of each contender, and ratios to tuner's."""
    limit = median(limits)
    flop = (6 if facts["full"] else 4) * facts["parameters"]
    figures = {}
    for name in dict.fromkeys(run["name"] for run in runs):
        own = [run for run in runs if run["name"] == name]
        rate = median(_rate(run, facts) for run in own)
        figures[name] = {
            "runs": len(own),
            "tokens_per_second": rate,
            "share_of_limit": rate * flop / limit,
            "step_seconds": median(second for run in own for second in run["step_seconds"]),
            "peak_memory_bytes": median(run["peak_memory_bytes"] for run in own),
            "ready_seconds": median(run["ready_seconds"] for run in own),
            "first_step_seconds": median(run["first_step_seconds"] for run in own),
        }
    if _OURS in figures:
        ours = figures[_OURS]
        for theirs in figures.values():
            theirs["tuner_is_faster_by"] = ours["tokens_per_second"] / theirs["tokens_per_second"]
            theirs["tuner_takes_of_its_memory"] = (
                ours["peak_memory_bytes"] / theirs["peak_memory_bytes"]
            )
    return {
        # No path of the machine goes into what is kept.
        "facts": {**facts, "base": Path(facts["base"]).name},
        "limit_flops": limit,
        "limits": list(limits),
        "contenders": figures,
        "problems": problems(runs),
        "runs": list(runs),
    }


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    head = (
        "| contender | tokens/s | of the limit | peak memory | ready | first step | tuner's speed |"
    )
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|"]
    for name, row in result["contenders"].items():
        lines.append(
            f"| {name} | {row['tokens_per_second']:.1f} | {row['share_of_limit']:.2f} | "
            f"{row['peak_memory_bytes'] / 2**30:.2f} GiB | {row['ready_seconds']:.1f} s | "
            f"{row['first_step_seconds']:.1f} s | {row.get('tuner_is_faster_by', 0.0):.2f} x |"
        )
    lines.append(f"\nmatrix products reach {result['limit_flops'] / 1e9:.1f} GFLOP/s")
    return "\n".join(lines)
