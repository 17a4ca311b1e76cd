"""Several processes make the updates of one: rows G01 to G09, on gloo and a CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import rows
from tests.group import Groups

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    started = Groups(tmp_path_factory.mktemp("group"))
    yield started
    started.close()


def adapter(run: Path) -> Tensors:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def distance(one: Tensors, other: Tensors) -> float:
    """The largest difference of a tensor, as a share of its norm."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).norm() / one[k].norm()) for k in one)


def record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("world", [2, 4])
def test_the_same_updates_and_scores(
    groups: Groups, make_recipe: Callable[..., Path], tmp_path: Path, world: int
) -> None:
    """G01, G07: 17 uneven rows in steps of 8, the last of a single row."""
    recipe = make_recipe(data_rows=rows(17), train={"batch_size": 8}, export={"formats": ["adapter"]})
    assert groups(recipe, tmp_path / "one", world=1)["codes"] == [0], groups.said(0)
    done = groups(recipe, tmp_path / "several", world=world)
    assert done["codes"] == [0] * world, groups.said(0) + groups.said(1)
    assert distance(adapter(tmp_path / "one"), adapter(tmp_path / "several")) < 1e-5
