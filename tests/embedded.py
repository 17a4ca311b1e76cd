"""One short run of a method on the embedded base, to its proven artefacts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import write_rows
from tuner.methods import METHODS

COLOURS = ("red", "blue", "green", "pink", "gold", "grey", "black", "white")
OPTIONS: dict[str, dict[str, Any]] = {"trainable_tokens": {"tokens": ["."]}}


def methods(*, merged: bool) -> list[str]:
    """The methods whose adapter can be folded into the base, or the others."""
    return [name for name, row in METHODS.items() if (row.adapter and row.mergeable) == merged]


def write(name: str, folder: Path) -> Path:
    """Write the rows and the recipe of a method."""
    rows = [{"instruction": f"Say {word}.", "output": word.upper()} for word in COLOURS]
    write_rows(folder / "train.jsonl", rows)
    recipe = {
        "model": {"base": "smollm2-135m"},
        "data": {"train": "train.jsonl", "template": "instruction"},
        "method": {"name": name, **OPTIONS.get(name, {})},
        "train": {"max_steps": 3, "batch_size": 2},
        "eval": {"enabled": False, "samples": 0},
    }
    file = folder / "r.yaml"
    file.write_text(yaml.safe_dump(recipe), "utf-8")
    return file


def check(name: str, run_recipe: Callable[..., dict[str, Any]], folder: Path) -> None:
    """Run a method; every artefact that it can have is there, proven by a fresh process."""
    found = run_recipe(write(name, folder))
    row = METHODS[name]
    wanted = {"adapter": row.adapter, "merged": row.mergeable, "virtual_tokens": row.virtual_tokens}
    assert found["status"] == "done"
    assert found["plan"]["steps"]["total"] == 3
    assert {item["kind"] for item in found["artefacts"]} == {k for k, has in wanted.items() if has}
    assert all(item["verified"] for item in found["artefacts"])
    # A whole model takes half a gigabyte.
    shutil.rmtree(folder / "run")
