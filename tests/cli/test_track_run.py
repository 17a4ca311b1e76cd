"""`tuner runs track`, and what it says where nothing can be sent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import tuner
from tests.cli.fixes import Fault, follows, leaves_out, meant
from tests.record.test_trackers import line, write
from tuner import cli
from tuner.record.trackers import table

FAULTS = {
    "a tracker without a key": Fault(
        2, "run.track: wandb, but wandb", leaves_out, {"run.track": ["wandb"]}
    ),
    "a tracker that is not there": Fault(
        2, "there is no tracker 'tensorbord'", meant("tensorbord"), {"run.track": ["tensorbord"]}
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_an_error_says_to_do_works(name: str, tmp_path: Path, base: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    follows(FAULTS[name], tmp_path, base)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/none", "--to", "mlflow"), "there is no run runs/none"),
        (("empty", "--to", "tensorboard"), "empty has no metrics.jsonl"),
        (("empty", "--to", "mlfow"), "did you mean 'mlflow'"),
        (("full", "--to", "wandb"), "nothing can be sent to wandb"),
    ],
)
def test_what_cannot_be_sent_is_said(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, [line(1)], "done")
    (tmp_path / "empty/metrics.jsonl").unlink()
    done = tuner("runs", "track", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_tracker_that_cannot_be_reached_is_named_with_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*given: Any) -> None:
        sys.stdout.write("a library's own words\n")
        raise ConnectionError("no route to host")

    row = table.Tracker("mlflow", "json", lambda environment: "https://u:pw@host", fails)  # type: ignore[arg-type]
    monkeypatch.setitem(table.TRACKERS, "mlflow", row)
    plan: dict[str, Any] = {"verb": "sft", "task": "sft", "values": {}, "model": {}}
    plan |= {"parameters": {"total": 1, "trainable": 1}, "steps": {"total": 1}}
    write(tmp_path, [line(1)], "done", plan)
    with pytest.raises(SystemExit) as ended:
        cli.main(["runs", "track", str(tmp_path), "--to", "mlflow", "--json"])
    assert ended.value.code == 7
    said = capsys.readouterr()
    assert "library" not in said.out
    assert "ConnectionError: no route to host" in said.err
    assert f"tuner runs track {tmp_path} --to mlflow" in said.err
    assert "pw@" not in said.err + said.out
