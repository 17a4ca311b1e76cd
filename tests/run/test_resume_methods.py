"""C03 for every kind of method: killed after some steps, resumed, the same to the last byte."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import rows, write_rows
from tests.run.launched import Tuner, assert_equal

LABELS = ["good", "bad"]
CASES: dict[str, dict[str, Any]] = {
    "dora": {"method": {"name": "dora", "r": 4, "dropout": 0.1}},
    "lora plus": {"method": {"name": "lora", "r": 4, "b_rate_ratio": 4}},
    "qat": {"method": {"name": "lora", "r": 4}, "train": {"qat": "int4"}},
    "prefix": {"method": {"name": "prefix", "num_virtual_tokens": 4}},
    "ptuning_v2": {"method": {"name": "ptuning_v2", "num_virtual_tokens": 4}},
    "ptuning": {
        "method": {
            "name": "ptuning",
            "num_virtual_tokens": 4,
            "encoder": "lstm",
            "hidden_size": 16,
            "dropout": 0.1,
        }
    },
    "prompt": {"method": {"name": "prompt", "num_virtual_tokens": 4}},
    "multitask": {"method": {"name": "multitask_prompt", "num_virtual_tokens": 4}},
    "bottleneck": {"method": {"name": "bottleneck", "size": 8, "dropout": 0.1}},
    "adalora": {"method": {"name": "adalora", "r": 2, "start_r": 4, "dropout": 0.1}},
    "schedule_free": {
        "method": {"name": "lora", "r": 4, "dropout": 0.1},
        "train": {
            "optimizer": "schedule_free",
            "embedding_noise": 5,
            "label_smoothing": 0.1,
            "max_grad_norm": "none",
        },
    },
    "vera": {"method": {"name": "vera", "r": 8}},
    "classes": {
        "model": {"task": "classification"},
        "data": {"labels": LABELS},
        "method": {"name": "ptuning_v2", "num_virtual_tokens": 4},
    },
    "several labels": {
        "model": {"task": "classification"},
        "data": {"labels": LABELS, "multi_label": True},
        "method": {"name": "lora", "r": 4, "dropout": 0.1},
    },
}


def write(folder: Path, base: Path, case: str) -> Path:
    sections = CASES[case]
    made, held = rows(18), rows(4, start=100)
    if case == "classes":
        for number, row in enumerate([*made, *held]):
            row["output"] = LABELS[number % 2]
    if case == "several labels":
        for number, row in enumerate([*made, *held]):
            row["output"] = "; ".join(LABELS[: number % 3])
    write_rows(folder / "train.jsonl", made)
    write_rows(folder / "eval.jsonl", held)
    recipe = {
        **sections,
        "model": {"base": str(base), **sections.get("model", {})},
        "data": {
            "train": "train.jsonl",
            "eval": "eval.jsonl",
            "template": "instruction",
            **sections.get("data", {}),
        },
        "train": {
            "batch_size": 4,
            "micro_batch_size": 2,
            "epochs": 2.5,
            "learning_rate": 0.01,
            "logging_steps": 1,
            "save_steps": 2,
            **sections.get("train", {}),
        },
        "export": {"formats": ["adapter"]},
        "eval": {"max_new_tokens": 4},
    }
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_resumes_exactly(
    case: str, tuner: Tuner, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """C03: in mid-epoch, at a step between two checkpoints, and a second time near the end."""
    if case == "qat":
        pytest.importorskip("torchao")
    recipe = write(tmp_path, bases("llama"), case)
    assert tuner(recipe, tmp_path / "reference") == 0, tuner.said()
    folder = tmp_path / "run"
    for number in (3, 9):
        at = ("logged", number, signal.SIGKILL)
        assert tuner(recipe, folder, at=at, resume=True) == -signal.SIGKILL
    assert tuner(recipe, folder, resume=True) == 0, tuner.said()
    assert_equal(folder, tmp_path / "reference")
