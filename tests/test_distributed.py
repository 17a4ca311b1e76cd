"""Several processes make the updates of one: rows G01 to G09, on gloo and a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import rows, write_rows
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


@pytest.fixture(scope="module")
def plain(
    groups: Groups, bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A recipe, 17 uneven rows in steps of 8, and its run in one process."""
    folder = tmp_path_factory.mktemp("plain")
    recipe = write_recipe(folder, bases("llama"))
    assert groups(recipe, folder / "run", world=1)["codes"] == [0], groups.said(0)
    return recipe, folder / "run"


def write_recipe(folder: Path, base: Path, **sections: Any) -> Path:
    write_rows(folder / "train.jsonl", rows(17))
    write_rows(folder / "eval.jsonl", rows(5, start=100))
    data = {"train": "train.jsonl", "eval": "eval.jsonl", "template": "instruction"}
    recipe = {
        "model": {"base": str(base)},
        "data": {**data, **sections.pop("data", {})},
        "train": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "save_steps": 1},
        "eval": {"metrics": ["loss", "token_accuracy", "exact_match"]},
        "export": {"formats": ["adapter"]},
        **sections,
    }
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    return path


@pytest.mark.parametrize("world", [2, 4])
def test_the_same_updates_and_scores(
    groups: Groups, plain: tuple[Path, Path], tmp_path: Path, world: int
) -> None:
    """G01, G06, G07: the last step has a single row, and there are fewer held-out rows than two
    each; nobody but rank 0 writes."""
    recipe, one = plain
    done = groups(recipe, tmp_path / "several", world=world)
    assert done["codes"] == [0] * world, groups.said(0) + groups.said(1)
    several = tmp_path / "several"
    assert distance(adapter(one), adapter(several)) < 1e-5
    for before, now in zip(metrics(one), metrics(several), strict=True):
        for key in ("loss", "grad_norm", "learning_rate", "tokens", "supervised_tokens", "epoch"):
            assert now[key] == pytest.approx(before[key], rel=1e-5), key
    for when, scores in record(one)["scores"].items():
        assert record(several)["scores"][when] == pytest.approx(scores, rel=1e-5)
    assert record(several)["samples"] == record(one)["samples"]
    assert record(several)["plan"]["steps"]["processes"] == world
    assert [path.name for path in sorted(several.iterdir())] == [
        path.name for path in sorted(one.iterdir())
    ]
    assert any(name.startswith(str(several)) for name in groups.written(0))
    for number in range(1, world):
        assert not [name for name in groups.written(number) if name.startswith(str(several))]
        assert groups.said(number) == ""


def test_rows_stay_in_order_on_other_numbers_of_processes(
    groups: Groups, plain: tuple[Path, Path], tmp_path: Path
) -> None:
    """G08, G09: rank 1 alone gets SIGTERM in the second step; all seal it and end with 143. One
    process goes on where two stood, and comes to what a single one comes to."""
    recipe, one = plain
    folder = tmp_path / "run"
    stopped = groups(recipe, folder, traps={1: "signalled"})
    assert stopped["codes"] == [143, 143], groups.said(0) + groups.said(1)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())[-1] == "step-2"
    assert record(folder)["status"] == "interrupted"
    told = [groups.said(number).count("stopped by SIGTERM") for number in (0, 1)]
    assert sorted(told) == [0, 2], "the event and its line, once"
    went_on = groups(recipe, folder, world=1, resume=True)
    assert went_on["codes"] == [0], groups.said(0)
    assert record(folder)["resumes"][-1]["from_step"] == 2
    assert distance(adapter(one), adapter(folder)) < 1e-5
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        ("not finite", 5, "the loss is nan at step 2"),
        ("bad rows", 3, "a row is broken"),
        ("other start", 5, "do not train the same tensors"),
        ("killed", 7, "another process of this run has ended"),
    ],
)
def test_one_failure_ends_all(
    groups: Groups, plain: tuple[Path, Path], tmp_path: Path, fault: str, code: int, text: str
) -> None:
    """G04, G07: what goes wrong on rank 1 alone ends both, with one error, told once, at once."""
    done = groups(plain[0], tmp_path / "run", traps={1: fault})
    killed = fault == "killed"
    assert done["codes"] == [code, -9 if killed else code], groups.said(0) + groups.said(1)
    assert not done["late"]
    assert done["seconds"] < 30
    told = [groups.said(number).count(f"error: {text}") for number in (0, 1)]
    assert sum(told) == 1, groups.said(0) + groups.said(1)
    if fault == "bad rows":
        assert told == [0, 1], "by the rank that failed"
    failure = record(tmp_path / "run")
    assert failure["status"] == "failed"
    assert failure["error"]["what"].startswith(text)
    assert failure["error"]["exit_code"] == code


def test_the_launcher(plain: tuple[Path, Path], tmp_path: Path) -> None:
    """G05: one command starts two processes, and comes to what one comes to; its JSON is one."""
    recipe, one = plain
    command = [sys.executable, "-m", "tuner", "sft", "--recipe", str(recipe), "--json"]
    command += ["--output", str(tmp_path / "run"), "--set", "run.devices=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    names = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert names.count("plan") == names.count("done") == 1
    assert names.count("progress") == 3
    assert record(tmp_path / "run")["plan"]["values"]["run.devices"]["value"] == 2
    assert distance(adapter(one), adapter(tmp_path / "run")) < 1e-5
