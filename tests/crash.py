"""Saves checkpoints in children that are killed or starved at every call.

Run as `python -m tests.crash SCENARIO FOLDER`: prints one JSON line for each fault. A process of
its own, so that no test process with running threads is forked.
"""

from __future__ import annotations

import errno
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests import faults
from tuner.record import checkpoint, checkpoint_folder, seal

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
    found, skipped = checkpoint_folder.newest(folder)
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


def checkpoints(folder: Path, kind: str, level: str) -> None:
    """Save step 3 over steps 1 and 2, with one fault at every call."""
    template = folder / "template"
    for step in (1, 2):
        save(template, step, model_at(step))
    third = model_at(3)
    only = faults.GROWS if kind == "fail" else ()
    fault = faults.Fault(kind, 0, level, errno.ENOSPC, only)
    for work, outcome in faults.sweep(folder, fault, lambda work: save(work, 3, third), template):
        faults.print_line(outcome, inspect(work))


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
        faults.print_line(outcome, inspect(work))
        if outcome.code == 0:
            return
        limit += 61


if __name__ == "__main__":
    torch.set_num_threads(1)
    scenario, where, *rest = sys.argv[1:]
    rest = faults.with_level(rest)
    scenarios: dict[str, Callable[..., None]] = {
        "checkpoints": checkpoints,
        "small_disk": small_disk,
    }
    scenarios[scenario](Path(where), *rest)
