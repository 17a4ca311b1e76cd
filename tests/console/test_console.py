"""The console: for people, for programs, and quiet."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.command import ROOT
from tuner import errors
from tuner.console import console
from tuner.console.console import Console
from tuner.run.finish import show_artefacts


def test_the_console_shows_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console()
    shown.phase("training 30 steps")
    for step in range(1, 31):
        shown.progress(step, 30, {"loss": 2 / step, "learning_rate": 1e-4})
    shown.scores({"loss": 3.0, "label_accuracy": 0.125}, {"loss": 1.0, "label_accuracy": 0.875})
    shown.sample("What?\nNow", "This.", "\x1b[31mThat\x07", "This.")
    show_artefacts([{"kind": "adapter", "path": "adapter", "bytes": 2048, "verified": True}], shown)
    shown.done({"output": "runs/x", "durations": {"train": 64.0, "total": 65.0}})
    out, err = capsys.readouterr()
    steps = re.findall(r"  step (\d+)/30  loss", out)
    assert 8 <= len(steps) <= 13
    assert steps[-1] == "30"
    assert re.search(r"^label_accuracy +0.125 +0.875$", out, re.MULTILINE)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "adapter  adapter  2.0 KiB  verified" in out
    assert out.endswith("\ndone in 1 min 5 s: runs/x\n")
    assert err == ""


def test_scores_of_no_rows_are_no_empty_table(capsys: pytest.CaptureFixture[str]) -> None:
    Console().scores({}, {})
    assert capsys.readouterr().out == "no row is held out, so there are no scores\n"


def test_the_console_is_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console(json=True)
    shown.phase("training")
    shown.note("note")
    shown.warn("careful")
    shown.text("not for machines")
    shown.progress(1, 2, {"loss": float("nan"), "path": Path("x"), "name": "合同"})
    shown.tick(1, 2)
    shown.scores({"loss": 1.0}, {"loss": float("inf")})
    shown.sample("a", "b", "c", "d")
    part = {"role": "user", "kind": "text", "text": "a", "learned": True, "weight": 1.0}
    shown.row("rows:1", [part])
    show_artefacts(
        [{"kind": "adapter", "path": Path("adapter"), "bytes": 1, "verified": True}], shown
    )
    shown.table(("a",), [("b",)])
    shown.done({"status": "done"})
    out, err = capsys.readouterr()
    events = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [event["event"] for event in events] == [
        "phase",
        "note",
        "warning",
        "progress",
        "scores",
        "sample",
        "row",
        "artefact",
        "done",
    ]
    assert events[3]["metrics"] == {"loss": None, "path": "x", "name": "合同"}
    assert err == ""


def test_quiet_leaves_warnings_errors_and_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Console(quiet=True)
    shown.phase("training")
    shown.progress(1, 1, {})
    shown.scores({"loss": 1.0}, {"loss": 0.5})
    show_artefacts([{"kind": "adapter"}], shown)
    assert capsys.readouterr() == ("", "")
    shown.warn("careful")
    shown.error(errors.DataError("what", problems=["one", "two"], fix="how"))
    shown.done({"output": "runs/x"})
    assert capsys.readouterr() == (
        "\ndone: runs/x\n",
        "warning: careful\nerror: what\n  one\n  two\nfix: how\n",
    )


def test_only_the_console_prints() -> None:
    pattern = re.compile(r"\bprint\(|sys\.stdout\.write|sys\.stderr\.write|typer\.echo|\becho\(")
    for file in ROOT.glob("tuner/**/*.py"):
        if file != Path(console.__file__):
            assert not pattern.search(file.read_text("utf-8")), file
