"""The plans of a comparison: rows are read once, and are those of a plan alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import rows, write_rows
from tests.run.test_compare import write
from tuner.data.sft import SftData
from tuner.machine import hardware
from tuner.recipe import comparison
from tuner.run.experiment.comparison import make_plans


def test_methods_with_the_same_room_are_planned_on_rows_that_are_read_once(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As planned alone; a prefix leaves less room, and another comparison reads the file again."""
    file = write(bases("llama"), tmp_path)
    loaded = comparison.load_comparison(file, (), None)
    read: list[int] = []
    prepare = SftData.prepare
    monkeypatch.setattr(
        SftData, "prepare", lambda self: read.append(self.max_length) or prepare(self)
    )
    machine = hardware.detect()
    found = make_plans(loaded, machine, tmp_path / "out")
    assert len(found) == 3
    assert len(read) == len(set(read)) == 2
    for entry in found:
        runs = {entry.name: loaded.runs[entry.name]}
        assert make_plans(replace(loaded, runs=runs), machine, tmp_path / "out") == [entry]
    write_rows(tmp_path / "train.jsonl", rows(16, start=50))
    other = make_plans(loaded, machine, tmp_path / "out")
    assert other[0].same["tokens_sha256"] != found[0].same["tokens_sha256"]
