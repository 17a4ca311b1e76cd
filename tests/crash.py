"""Saves checkpoints and run records in children that are killed or starved at every call.

Run as `python -m tests.crash SCENARIO FOLDER`: prints one JSON line for each fault. A process of
its own, so that no test process with running threads is forked.
"""

from __future__ import annotations

import errno
import json
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests import faults
from tuner import checkpoint, record, seal
from tuner.errors import TunerError

Model = tuple[torch.nn.Module, torch.optim.Optimizer]


def model_at(step: int) -> Model:
    """A model and optimizer whose values say which step they are at."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for number in range(step):
        module(torch.full((1, 3), float(number + 1))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def save(folder: Path, step: int, model: Model) -> Path:
    module, optimizer = model
    parameters = dict(module.named_parameters())
    return checkpoint.save(folder, step, parameters, optimizer, None, {"stage": 0, "at": step})


def inspect(folder: Path) -> dict[str, Any]:
    """What a resume would find after the fault, and whether it can go on."""
    found, skipped = checkpoint.newest(folder)
    if found is None:
        return {"newest": None, "skipped": skipped}
    loaded = checkpoint.load(found)
    module, optimizer = model_at(0)
    checkpoint.restore(loaded, dict(module.named_parameters()), optimizer, None)
    wanted, _ = model_at(loaded.step)
    exact = all(map(torch.equal, module.parameters(), wanted.parameters()))
    before = sorted(path.name for path in folder.iterdir())
    seal.clean_staging(folder, exclusive=True)
    for step in (loaded.step + 1, loaded.step + 2):
        save(folder, step, model_at(step))
    return {
        "newest": found.name,
        "skipped": skipped,
        "exact": exact and loaded.state["at"] == loaded.step,
        "left": before,
        "after": sorted(path.name for path in folder.iterdir()),
        "goes_on_from": loaded.step,
    }


def sweep(
    folder: Path, fault: faults.Fault, action: Callable[[Path], Any], template: Path
) -> Iterator[tuple[Path, faults.Outcome]]:
    """Run the action once for every call that it makes, with the fault at that call."""
    while True:
        work = folder / f"{fault.level}-{fault.kind}-{fault.at}"
        shutil.copytree(template, work)
        outcome = faults.run(lambda work=work: action(work), fault)  # type: ignore[misc]
        yield work, outcome
        if outcome.hit is None:
            return
        fault.at += 1


def checkpoints(folder: Path, kind: str, level: str) -> None:
    """Save step 3 over steps 1 and 2, with one fault at every call."""
    template = folder / "template"
    for step in (1, 2):
        save(template, step, model_at(step))
    third = model_at(3)
    only = faults.GROWS if kind == "fail" else ()
    fault = faults.Fault(kind, 0, level, errno.ENOSPC, only)
    for work, outcome in sweep(folder, fault, lambda work: save(work, 3, third), template):
        print_line(outcome, inspect(work))


def small_disk(folder: Path) -> None:
    """The kernel refuses to let any file grow beyond a limit, from 0 bytes up."""
    template = folder / "template"
    for step in (1, 2):
        save(template, step, model_at(step))
    third = model_at(3)

    def action(work: Path, limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save(work, 3, third)

    limit = 0
    while True:
        work = folder / f"limit-{limit}"
        shutil.copytree(template, work)
        never = faults.Fault("kill", 10**9)
        outcome = faults.run(lambda work=work, limit=limit: action(work, limit), never)  # type: ignore[misc]
        print_line(outcome, inspect(work))
        if outcome.code == 0:
            return
        limit += 61


def records(folder: Path, kind: str, level: str) -> None:
    """Open a run, write its record and metrics, close it, with one fault at every call."""
    template = folder / "template"
    template.mkdir(parents=True)

    def action(work: Path) -> None:
        with record.RunFolder.open(work, resume=True, initial={"recipe_sha256": "r"}) as run:
            run.append_metrics({"step": 1, "loss": 0.5})
            run.update(scores={"loss": 0.25})
            run.append_metrics({"step": 2, "loss": 0.25})
            run.finish()

    for work, outcome in sweep(folder, faults.Fault(kind, 0, level), action, template):
        seen: dict[str, Any] = {"left": sorted(path.name for path in work.iterdir())}
        if (work / record.RUN).exists():
            seen["status"] = json.loads((work / record.RUN).read_bytes())["status"]
        try:
            with record.RunFolder.open(work, resume=True) as run:
                run.truncate_metrics(1)
                run.append_metrics({"step": 2, "loss": 0.25})
                run.finish()
        except TunerError as error:
            seen["resume"] = str(error)
        metrics = (work / record.METRICS).read_text().splitlines()
        seen["steps"] = [json.loads(line)["step"] for line in metrics]
        seen["after"] = sorted(path.name for path in work.iterdir())
        print_line(outcome, seen)


def print_line(outcome: faults.Outcome, seen: dict[str, Any]) -> None:
    line = {"code": outcome.code, "hit": outcome.hit, "calls": outcome.calls, **seen}
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    scenario, where, *rest = sys.argv[1:]
    if rest[1:] == ["kernel"] and not faults.can_trace():
        sys.stdout.write("cannot trace\n")
        sys.exit(0)
    if rest[1:] == ["best"]:
        rest[1] = "kernel" if faults.can_trace() else "python"
    scenarios: dict[str, Callable[..., None]] = {
        "checkpoints": checkpoints,
        "small_disk": small_disk,
        "records": records,
    }
    scenarios[scenario](Path(where), *rest)
