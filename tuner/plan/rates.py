"""How fast this machine trains, measured by runs and rehearsals; plans estimate times from it.

The cache has a small file per setting. Machines with the same processors and GPUs count as one. A
plan for which nothing was measured shows no time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import ResourceError
from tuner.machine import threads
from tuner.machine.cache import cache_folder
from tuner.record.disk import write_json

if TYPE_CHECKING:
    from tuner.machine.hardware import Machine
    from tuner.plan.plan import Plan

FORMAT = 1
_KEPT = 256
# Measuring the tuned model and merging it, which all formats share.
SHARED = ""
# Keys that change the time of a step: the rate of the same base, method, device and type is still a
# fair guess for other values of these.
_SETTINGS = (
    *("train.batch_size", "train.micro_batch_size", "train.gradient_checkpointing", "train.qat"),
    *("data.packing", "data.max_length", "run.devices", "run.nodes", "run.strategy"),
)


@dataclass(frozen=True)
class Rate:
    """Measured speed; times in seconds.

    Attributes:
        tokens_per_second: of training, without padding, over all processes.
        step: of an optimizer step.
        load: of the base, until the first step could begin.
        score_row: of scoring one held-out row.
        samples: of one set of the answers that are shown.
        save: of sealing a checkpoint.
        export: of the formats that are written from the live model, their proof included.
        by: rehearsal or run.
        date: the day, as 2026-01-31.
        made: of each format that is made from a sealed one, and, under SHARED, of the work that
            they have in common.
    """

    tokens_per_second: float
    step: float
    load: float
    score_row: float
    samples: float
    save: float
    export: float
    by: str
    date: str
    made: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasuredRates:
    """A rate that fits a plan; `same` where its settings were those of the plan."""

    rate: Rate
    same: bool


def today() -> str:
    """Return the date, in UTC."""
    return datetime.now(UTC).date().isoformat()


def keep(plan: Plan, machine: Machine, rate: Rate) -> Path | None:
    """Remember a rate for plans like this one; None where the cache cannot be written."""
    kin, settings = _kin(plan, machine), _settings(plan)
    path = _folder() / f"{_digest([kin, settings])}.json"
    # Only later plans use it: it is no reason to fail this run.
    with contextlib.suppress(OSError, ResourceError):
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {"format": FORMAT, "kin": kin, "settings": settings, "rate": asdict(rate)}
        write_json(path, body)
        _forget_old(path.parent)
        return path
    return None


def measured_rates(plan: Plan, machine: Machine) -> MeasuredRates | None:
    """Return the rate of the same settings, else the newest of the same base, method and device.

    Where answers are sampled the time depends on the settings, so only the former counts.
    """
    kin, settings = _kin(plan, machine), _settings(plan)
    exact = _read(_folder() / f"{_digest([kin, settings])}.json")
    if exact is not None:
        return MeasuredRates(exact[1], same=True)
    if plan.draws:
        return None
    for path in _newest_first(_folder()):
        other = _read(path)
        if other is not None and other[0] == kin:
            return MeasuredRates(other[1], same=False)
    return None


def of_run(plan: Plan, record: Mapping[str, Any], lines: list[dict[str, Any]]) -> Rate | None:
    """Return the rate of a run that was not interrupted.

    Args:
        plan: of the run.
        record: its run.json; `durations` are complete.
        lines: of its metrics.jsonl; the first, which includes warm-up, is left out if there are
            others.
    """
    evaluated = [line for line in lines if "eval_seconds" in line]
    lines = [line for line in lines if line.get("tokens") and line.get("seconds")]
    later = lines[1:] or lines
    laps = record.get("durations") or {}
    if not later or record.get("resumes") or not laps.get("total"):
        return None
    tokens, seconds = (sum(line[key] for line in later) for key in ("tokens", "seconds"))
    before = lines[0]["step"] if lines[1:] else 0
    steps = len(later) if plan.draws else later[-1]["step"] - before
    rows = scored_rows(plan)
    made = of_formats(record.get("artefacts") or ())
    done = lines[-1]["step"]
    apart = seconds / max(1, steps) * done + sum(line["eval_seconds"] for line in evaluated)
    sealed = saves(plan, done)
    if plan.evaluations and plan.evaluations.keep_best:
        sealed += sum(line.get("eval_best", False) for line in evaluated)
    return Rate(
        tokens_per_second=tokens / seconds,
        step=seconds / max(1, steps),
        load=laps.get("load", 0.0),
        score_row=laps.get("score_before", 0.0) / rows if rows else 0.0,
        samples=0.0 if rows else laps.get("score_before", 0.0),
        save=max(0.0, laps.get("train", 0.0) - apart) / sealed,
        export=max(0.0, laps.get("export", 0.0) - sum(made.values())),
        by="run",
        date=today(),
        made=made,
    )


def of_formats(artefacts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return `Rate.made` of the artefacts of a run."""
    timed = [artefact for artefact in artefacts if "seconds" in artefact]
    found = {str(artefact["kind"]): float(artefact["seconds"]) for artefact in timed}
    return {**found, SHARED: float(timed[0]["shared_seconds"])} if timed else {}


def scored_rows(plan: Plan) -> int:
    """Return the number of held-out rows in one scoring."""
    return len(plan.prepared.eval[: plan.recipe.eval.max_rows]) if plan.recipe.eval.enabled else 0


def saves(plan: Plan, done: int | None = None) -> int:
    """Return the number of checkpoints that a run seals every so many steps and at its end.

    Args:
        plan: of the run.
        done: steps after which it ended; None: all.
    """
    every, last = plan.recipe.train.save_steps, done or plan.steps
    due = set(range(every, last + 1, every)) | {min(stage.stop, last) for stage in plan.stages}
    return len(due)


def _kin(plan: Plan, machine: Machine) -> dict[str, Any]:
    """Return what a rate must share with a plan to apply to it."""
    rlhf = plan.recipe.rlhf
    return {
        "machine": {
            "processor": _processor(),
            "threads": _threads(plan, machine),
            "gpus": [gpu.name for gpu in machine.gpus],
        },
        "base": plan.base.name,
        "parameters": plan.facts["parameters"]["total"],
        "task": plan.task,
        "algorithm": rlhf.algorithm if rlhf else "",
        "method": plan.method.name,
        "device": plan.device,
        "dtype": plan.dtype,
        "quantize": plan.recipe.model.quantize,
    }


def _settings(plan: Plan) -> dict[str, Any]:
    given = {key: plan.values[key].value for key in _SETTINGS}
    given |= {key: item.value for key, item in plan.values.items() if _of_answers(key)}
    given["trainable"] = plan.facts["parameters"]["trainable"]
    given["stages"] = len(plan.stages)
    return dict(json.loads(json.dumps(given, default=str)))


def _of_answers(key: str) -> bool:
    """Return whether a key sets how answers are sampled and learned from."""
    names = ("responses_per_prompt", "max_new_tokens", "vllm", "epochs", "minibatches", "reward")
    section, _, name = key.partition(".")
    return section in ("rlhf", "ppo") and name in names


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _threads(plan: Plan, machine: Machine) -> int:
    """Return the processors of each process, as `launch` assigns them."""
    given = os.environ.get(threads.COUNT, "")
    if given.isdigit() and int(given) and not threads.is_open(threads.COUNT):
        return int(given)
    shared = plan.devices.per_node if plan.device == "cpu" else 1
    return max(1, machine.cpu_count // shared)


def _folder() -> Path:
    return cache_folder() / "rates"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _read(path: Path) -> tuple[dict[str, Any], Rate] | None:
    """Return the content of a file; None if it is missing, damaged or of another format."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        body = json.loads(path.read_bytes())
        if body["format"] == FORMAT:
            return body["kin"], Rate(**body["rate"])
    return None


def _newest_first(folder: Path) -> list[Path]:
    found = []
    for path in folder.glob("*.json") if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _forget_old(folder: Path) -> None:
    for path in _newest_first(folder)[_KEPT:]:
        path.unlink(missing_ok=True)
