"""A small recipe that the commands are tried with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import make_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture
def recipe(tmp_path: Path, base: Path) -> Path:
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    file = tmp_path / "small.yaml"
    file.write_text(
        f"model:\n  base: {base}\ndata:\n  train: rows.jsonl\ntrain:\n  batch_size: 4\n"
    )
    return file
