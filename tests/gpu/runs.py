"""Whole tiny runs on the fake GPU: `write` a recipe, `train` by it, `stop_after` a step."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

from tests.conftest import rows, write_rows
from tests.gpu.forked import base
from tuner.console.console import Console
from tuner.errors import Interrupted
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load
from tuner.record.run_folder import RunFolder
from tuner.run import spine

LABELS = ["good", "bad"]


def write(folder: Path, kind: str = "llama", data_rows: Any = None, **sections: Any) -> Path:
    """Write a recipe for a tiny base with 16 uneven rows and 4 held-out ones; 2 steps."""
    made, held = data_rows or (rows(16), rows(4, start=100))
    write_rows(folder / "train.jsonl", made)
    write_rows(folder / "eval.jsonl", held)
    given: dict[str, Any] = {
        "model": {"base": str(base(kind))},
        "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
        "train": {"max_steps": 2, "batch_size": 4, "learning_rate": 0.01, "logging_steps": 1},
        "eval": {"samples": 1, "max_new_tokens": 4},
    }
    if data_rows is None:
        given["data"]["template"] = "instruction"
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section}
    path = folder / "r.yaml"
    path.write_text(json.dumps(given), "utf-8")
    return path


def plan(recipe: Path, verb: str = "sft", folder: str = "run") -> Plan:
    """Return the plan of a recipe on the devices that tuner finds."""
    loaded = recipe_load.load(recipe, verb=verb)
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / folder)


def train(
    recipe: Path, verb: str = "sft", folder: str = "run", resume: bool = False
) -> dict[str, Any]:
    """Run a recipe to its end and return the record."""
    made = plan(recipe, verb, folder)
    assert made.device == "cuda"
    return spine.run(made, resume=resume, console=Console(quiet=True))


def stop_after(step: int, recipe: Path, verb: str = "sft", folder: str = "run") -> None:
    """Run a recipe until SIGTERM comes after a step; the run folder then has a checkpoint."""
    true = RunFolder.append_metrics

    def append(run: RunFolder, values: Any) -> None:
        true(run, values)
        if values["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with mock.patch.object(RunFolder, "append_metrics", append):
            train(recipe, verb, folder)
    except Interrupted:
        return
    raise AssertionError(f"the run did not stop after step {step}")
