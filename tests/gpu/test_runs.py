"""Whole runs on the fake GPU: one method of each family, each task; memory against the plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.gpu import matrix
from tests.gpu.forked import on_fake


@on_fake()
@pytest.mark.parametrize("name", matrix.FAMILIES)
def test_a_run_is_stopped_resumed_scored_and_proven(tmp_path: Path, name: str) -> None:
    """On the device throughout: an operand on another one, or `.numpy()`, is refused. All cases are
    in `python -m tests.gpu --fake --all`."""
    matrix.run(matrix.CASES[name], tmp_path)


PLANNED: dict[str, dict[str, Any]] = {
    "lora": {},
    "recomputed": {"train": {"gradient_checkpointing": True}},
    "full": {"method": {"name": "full"}},
    "prefix": {"method": {"name": "prefix", "num_virtual_tokens": 8}},
}


@on_fake()
@pytest.mark.parametrize("name", PLANNED)
def test_bytes_at_the_peak_are_those_of_the_plan(tmp_path: Path, name: str) -> None:
    """Within a tenth."""
    from tests.gpu import contenders, program, shapes
    from tests.gpu.checks import ours

    sections = PLANNED[name]
    # Its logits are a third of the peak.
    shape = shapes.Shape("small", 256, 704, 4, 4, 2, 64, 8192)
    bench = program.Bench(tmp_path, tmp_path / "lines", time.monotonic() + 600)
    sections = {**sections, "train": {"micro_batch_size": 4, **sections.get("train", {})}}
    with mock.patch.multiple(ours, WARM=1, TIMED=1):
        plan = ours.plan_for(bench, shape, (256,) * 4, **sections)
    model = ours.model_for(bench, shape, plan)
    # The model alone has them now; what is trained whole is copied.
    bench.kept.clear()
    ran, _, _ = contenders.ours(plan, model)
    planned = plan.facts["memory"]
    # Neither CUDA's context nor holes between tensors are in what is alive.
    alive = planned["total"] - planned["process"] - planned["holes"]
    assert ran.allocated == pytest.approx(alive, rel=0.10)


@pytest.mark.slow
@on_fake()
def test_rows_are_scored_while_a_run_trains(tmp_path: Path) -> None:
    """In half precision, on the device, with the random numbers of its generator left alone."""
    from tests.gpu import runs

    sections: dict[str, Any] = {"train": {"max_steps": 3}, "eval": {"every": 1, "keep": "best"}}
    recipe = runs.write(tmp_path, method={"name": "lora", "r": 4}, **sections)
    runs.stop_after(1, recipe)
    record = runs.train(recipe, resume=True)
    assert record["evaluation"]["last"]["step"] == 3
    assert record["scores"]["after"] == record["evaluation"]["best"]["scores"]
