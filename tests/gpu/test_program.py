"""How `python -m tests.gpu` runs its checks: bars, time, failures, lines at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import program
from tests.gpu.program import Bench, Check


def run(folder: Path, *checks: Check, left: float = 100.0) -> dict[str, str]:
    bench = Bench(folder, folder / "gpu.jsonl", time.monotonic() + left)
    table = program.run(bench, checks)
    assert program.show(table).count("\n") >= len(checks) - 1
    return {row["check"]: row["status"] for row in table}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text("utf-8").splitlines()]


def test_a_check_that_fails_does_not_keep_the_next_one_from_running(tmp_path: Path) -> None:
    def breaks(bench: Bench) -> None:
        bench.say(before=1)
        raise ValueError("no such kernel")

    def slow(bench: Bench) -> None:
        time.sleep(10)

    def skips(bench: Bench) -> None:
        raise program.Skipped("no card")

    found = run(
        tmp_path,
        Check("breaks", 1, breaks),
        Check("slow", 0, slow),
        Check("skips", 1, skips),
        Check("fine", 1, lambda bench: bench.bar("error", 0.1, most=0.2)),
    )
    assert found == {
        "breaks": "failed: ValueError: no such kernel",
        "slow": "failed: not done after 1 s",
        "skips": "skipped: no card",
        "fine": "passed",
    }
    # What was found before the failure is there, and where it was.
    assert lines(tmp_path)[0] == {"check": "breaks", "before": 1}
    assert "in breaks" in lines(tmp_path)[1]["traceback"]


@pytest.mark.parametrize("value", [0.3, float("nan")])
def test_a_bar_that_is_missed_fails_its_check(tmp_path: Path, value: float) -> None:
    def check(bench: Bench) -> None:
        bench.bar("error", value, most=0.2)
        bench.bar("speed", 9.0, least=10.0)

    (status,) = run(tmp_path, Check("bars", 1, check)).values()
    assert (
        status == f"failed: error is {value:.4g}, the bar is <= 0.2; speed is 9, the bar is >= 10"
    )


def test_a_check_begins_only_if_its_seconds_are_left(tmp_path: Path) -> None:
    began: list[str] = []
    checks = [
        Check(name, seconds, lambda bench, name=name: began.append(name))  # type: ignore[misc]
        for name, seconds in (("long", 60), ("short", 2))
    ]
    found = run(tmp_path, *checks, left=10)
    assert began == ["short"]
    assert found["long"].startswith("left out: ")
