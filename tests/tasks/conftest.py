"""What the tests of tasks share: one thread, training alone, and preferences."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import write_rows
from tests.tasks.fitting import Fit, Tensors, make_plan, tensors
from tests.tasks.preferences import Row, pairs
from tuner.console.console import Console
from tuner.machine.signals import StopRequest
from tuner.record.run_folder import RunFolder
from tuner.run import build, spine
from tuner.tasks.watch import HeldOut


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The models are too small for two, and sums come in one order then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Fit]:
    """Train as a recipe says, without scores and export."""
    numbers = itertools.count()

    def go(recipe: Path, prepare: Callable[[Any], Any] = lambda live: None) -> Fit:
        made = make_plan(recipe, tmp_path / f"fit-{next(numbers)}")
        stages: list[Tensors] = []
        with StopRequest() as stop, RunFolder.open(made.output, resume=False) as folder:
            trained = build.start(made, build.load(made))
            prepare(trained.model)
            start = tensors(trained.model)
            spine.train(
                made,
                trained,
                folder,
                stop,
                Console(quiet=True),
                HeldOut(lambda number: stages.append(tensors(trained.model, trained=False))),
                None,
            )
        lines = (made.output / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        return Fit(made, trained.model, start, metrics, stages, trained.unmoved, made.output)

    return go


@pytest.fixture
def preferences(tmp_path: Path, bases: Callable[..., Path]) -> Callable[..., Path]:
    """Write a recipe for `tuner reward` with 16 pairs and 8 held-out ones."""

    def write(
        rows: Sequence[Row] | None = None,
        kind: str = "llama",
        tokenizer: str = "chatml",
        name: str = "r",
        held: Sequence[Row] | None = None,
        **sections: Any,
    ) -> Path:
        write_rows(tmp_path / f"{name}.jsonl", list(pairs(16) if rows is None else rows))
        write_rows(tmp_path / "held.jsonl", list(pairs(8, 100) if held is None else held))
        base = {"base": str(bases(kind, tokenizer))}
        data = {"train": f"{name}.jsonl", "eval": "held.jsonl"}
        train = {"batch_size": 4, "learning_rate": 0.01}
        recipe = {
            **sections,
            "model": base | sections.get("model", {}),
            "data": data | sections.get("data", {}),
            "train": train | sections.get("train", {}),
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write
