"""Trackers that follow a run: they see every step once, and it never sees them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.record.test_trackers import figures
from tests.run.launched import metrics, record
from tuner import cli
from tuner.machine import processes
from tuner.record.run_folder import RunFolder
from tuner.record.trackers import state as states
from tuner.run.track import following

pytestmark = pytest.mark.usefixtures("in_process")

Runs = Callable[..., dict[str, Any]]
SHORT: dict[str, Any] = {
    "method": {"name": "lora", "r": 4, "dropout": 0.2},
    "train": {"epochs": 2, "save_steps": 3},
    "eval": {"every": 4, "samples": 0},
    "export": {"formats": ["adapter"]},
}
TRACKED: dict[str, Any] = {**SHORT, "run": {"track": "tensorboard"}}


class Killed(Exception):
    """What a process that is killed leaves behind is left behind here."""


def weights(folder: Path) -> bytes:
    return (folder / "adapter/adapter_model.safetensors").read_bytes()


def losses(folder: Path, name: str = "loss") -> list[tuple[int, float]]:
    return [(each["step"], each[name]) for each in metrics(folder) if name in each]


def seen(folder: Path, tag: str) -> list[tuple[int, float]]:
    return figures(folder / "tensorboard")[tag]


def blocks(module: str, arguments: list[str], log: Any) -> subprocess.Popen[bytes]:
    """A sender whose library waits for ever."""
    code = "import time; time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


def follow(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Give a command as it is printed; return what it shows."""
    program, *words = shlex.split(command)
    assert program == "tuner"
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert not ended.value.code
    return capsys.readouterr().out


def test_a_tracker_that_blocks_changes_nothing_and_is_sent_the_run_later(
    make_recipe: Callable[..., Path],
    run_recipe: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run_recipe(make_recipe(**SHORT), "plain")
    monkeypatch.setattr(processes, "background", blocks)
    monkeypatch.setattr(following, "PATIENCE", 0.2)
    done = run_recipe(make_recipe(**TRACKED), "tracked")
    assert done["status"] == "done"
    assert weights(tmp_path / "tracked") == weights(tmp_path / "plain")
    said = capsys.readouterr().err
    assert "not sent to tensorboard: 10 lines of 10 (it gave no answer in time" in said
    command = said.partition("send it later: ")[2].splitlines()[0]
    assert "sent 10 lines to tensorboard" in follow(command, capsys)
    for tag, name in (("train/loss", "loss"), ("eval/loss", "eval_loss")):
        sent, written = seen(tmp_path / "tracked", tag), losses(tmp_path / "tracked", name)
        assert [step for step, _ in sent] == [step for step, _ in written]
        assert [value for _, value in sent] == pytest.approx([value for _, value in written])
    assert "nothing left to send to tensorboard" in follow(command, capsys)
    assert len(seen(tmp_path / "tracked", "train/loss")) == 8


def test_a_run_without_trackers_starts_no_process(
    make_recipe: Callable[..., Path],
    run_recipe: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the environment says."""
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID"):
        monkeypatch.setenv(name, "given")
    monkeypatch.setattr(
        processes, "background", lambda *given: pytest.fail("a process was started")
    )
    run_recipe(make_recipe(**SHORT), "plain")
    assert not (tmp_path / "plain" / states.FOLDER).exists()


def test_a_process_that_cannot_start_is_said(
    make_recipe: Callable[..., Path],
    run_recipe: Runs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")

    def fails(*given: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "background", fails)
    assert run_recipe(make_recipe(**TRACKED))["status"] == "done"
    assert "10 lines of 10 (its process could not be started" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_one_run_with_each_step_once(
    make_recipe: Callable[..., Path],
    run_recipe: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after step 5, whose line was sent; step 4 and 5 are taken again from step 3."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    recipe = make_recipe(**TRACKED)
    true = RunFolder.append_metrics

    def killed(self: RunFolder, values: Any) -> None:
        true(self, values)
        if values["step"] == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", killed)
        # It has not begun to send by the time of the kill, and sends all of it now.
        patch.setattr(following, "STOPPED_PATIENCE", 30.0)
        with pytest.raises(Killed):
            run_recipe(recipe, "run")
    run = tmp_path / "run"
    assert [step for step, _ in seen(run, "train/loss")] == [1, 2, 3, 4, 5]
    run_recipe(recipe, "run", resume=True)
    assert [step for step, _ in seen(run, "train/loss")] == list(range(1, 9))
    assert [step for step, _ in seen(run, "eval/loss")] == [4, 8]
    assert [step for step, _ in losses(run)] == list(range(1, 9))
    run_recipe(make_recipe(**SHORT), "plain")
    assert weights(run) == weights(tmp_path / "plain")
    (place,) = states._load_all(run, "tensorboard").values()
    assert place.closed == "done"


@pytest.mark.slow
def test_a_tracker_that_fails_is_said_and_sent_the_run_later(
    make_recipe: Callable[..., Path],
    run_recipe: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its folder cannot be made, since a file has its name."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run = tmp_path / "run"
    true = following._start

    def in_the_way(folder: Path, tracker: str) -> Any:
        (folder / "tensorboard").write_text("in the way")
        return true(folder, tracker)

    monkeypatch.setattr(following, "_start", in_the_way)
    monkeypatch.setattr(following, "PATIENCE", 12.0)
    run_recipe(make_recipe(**TRACKED), "run")
    assert record(run)["status"] == "done"
    said = capsys.readouterr().err
    assert "not sent to tensorboard: 10 lines of 10 (FileExistsError" in said
    (run / "tensorboard").unlink()
    follow(said.partition("send it later: ")[2].splitlines()[0], capsys)
    assert len(seen(run, "train/loss")) == 8
