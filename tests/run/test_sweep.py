"""`tuner sweep`: every combination of some values, a run each, through the real Ray Tune."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import rows, write_rows
from tests.run.chains import write_chain
from tuner import cli
from tuner.errors import RecipeError
from tuner.machine import packages, processes
from tuner.run import content
from tuner.run.experiment import grid, results
from tuner.run.experiment import sweep as sweeps
from tuner.run.experiment.sweep import Sweep
from tuner.run.experiment.trial import Trial

HAS_RAY = importlib.util.find_spec("ray") is not None
no_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (make ray)")


def tuner(folder: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and JSON events of a sweep in this process."""
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.chdir(folder),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(["sweep", "--json", *arguments])
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    return int(stop.value.code or 0), events


def only(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [event for event in events if event["event"] == name]
    return found


def finish(trial: grid.GridPoint, root: Path, scores: dict[str, float], **fields: Any) -> None:
    """A run folder as a trial leaves it."""
    folder = root / "trials" / trial.name
    folder.mkdir(parents=True)
    record = {
        **{"format": 1, "tuner": "0", "status": "done", "error": None},
        "content_sha256": content.content_sha256(trial.loaded),
        "scores": {"before": scores, "after": scores},
        "durations": {"total": 1.0},
        **fields,
    }
    (folder / "run.json").write_text(json.dumps(record))


def test_every_combination_is_a_trial(make_recipe: Callable[..., Path]) -> None:
    """In the order that was given; what has one value is the same for all, and no part of names."""
    asked = ["method.r=4,8", "train.epochs=2", "train.learning_rate=1e-4, 3e-4,1e-4"]
    made = grid.combinations(make_recipe(), asked, None)
    assert [trial.name for trial in made] == [
        "r-4_learning_rate-1e-4",
        "r-4_learning_rate-3e-4",
        "r-8_learning_rate-1e-4",
        "r-8_learning_rate-3e-4",
    ]
    last = made[-1].loaded.recipe
    assert (last.method.r, last.train.epochs, last.train.learning_rate) == (8, 2.0, 3e-4)
    assert made[0].values == {"method.r": "4", "train.learning_rate": "1e-4"}
    assert made[0].overrides == ("method.r=4", "train.epochs=2", "train.learning_rate=1e-4")


def test_lists_and_quotes_hold_commas_of_their_own(make_recipe: Callable[..., Path]) -> None:
    assert grid.split("[q_proj, v_proj],all-linear") == ["[q_proj, v_proj]", "all-linear"]
    assert grid.split("{a: 1, b: [2,3]}, 'x,y'") == ["{a: 1, b: [2,3]}", "'x,y'"]
    asked = ["method.target_modules=[q_proj, v_proj],[q_proj],all-linear"]
    made = grid.combinations(make_recipe(), asked, None)
    assert made[0].loaded.recipe.method.target_modules == ("q_proj", "v_proj")
    names = [trial.name for trial in made]
    assert len(set(names)) == 3
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in names)
    assert names == [trial.name for trial in grid.combinations(make_recipe(), asked, None)]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["method.r=4"], "nothing to sweep over"),
        ([], "nothing to sweep over"),
        (["method.r=4,4"], "nothing to sweep over"),
        (["method.r"], "has no value"),
        (["method.r=4,8", "method.r=16"], "given twice"),
        (["method.rr=4,8"], "method.r"),
        (["method.r=4,many"], "whole number"),
    ],
)
def test_what_is_no_sweep_is_refused_before_anything_runs(
    asked: list[str], message: str, make_recipe: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError, match=message):
        grid.combinations(make_recipe(), asked, None)


def test_the_table_has_the_best_first(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """By the loss, or what is asked for; what failed or has no score stands last."""
    made = grid.combinations(make_recipe(), ["method.r=1,2,3,4,5"], None)
    root = tmp_path / "out"
    for trial, loss in zip(made, (2.0, 1.0, 3.0), strict=False):
        finish(trial, root, {"loss": loss, "token_accuracy": loss / 10})
    sweep = Sweep(root, made, None)
    ended = ((5, {"what": "a loss"}), (70, {"what": "it was lost"}))
    names = [trial.name for trial in sweep.trials[3:]]
    record = sweep.collect(dict(zip(names, ended, strict=True)), "failed")
    found = record["rows"]
    assert record["metric"] == "loss"
    assert [row["values"]["method.r"] for row in found] == ["2", "1", "3", "4", "5"]
    assert [row["status"] for row in found] == ["done", "done", "done", "failed", "failed"]
    assert [row["exit_code"] for row in found] == [0, 0, 0, 5, 70]
    assert [row["error"]["what"] for row in found[3:]] == ["a loss", "it was lost"]
    by_accuracy = Sweep(root, made, "token_accuracy").collect({}, "done")["rows"]
    assert [row["values"]["method.r"] for row in by_accuracy][:3] == ["3", "1", "2"]
    failure = results.failure(found, "trials", "")
    assert failure is not None
    assert (failure.exit_code, failure.kind) == (5, "training")
    assert len(failure.problems) == 2
    head, body = sweeps.table(record)
    assert all(len(line) == len(head) for line in body)


def test_what_is_done_is_known_by_recipe_and_rows(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """A changed row makes every trial another one; a price does not."""
    recipe = make_recipe()
    both = grid.combinations(recipe, ["method.r=1,2"], None)
    sweep = Sweep(tmp_path / "out", both, None)
    finish(both[0], sweep.root, {"loss": 1.0})
    assert sweep.finished(sweep.trials[0])
    priced = grid.combinations(recipe, ["method.r=1,2", "run.price_per_hour=3"], None)
    assert [trial.name for trial in Sweep(sweep.root, priced, None).waiting()] == ["r-2"]
    write_rows(tmp_path / "train.jsonl", rows(17))
    assert sweep.finished(sweep.trials[0]) is None
    code, events = tuner(tmp_path, "--recipe", str(recipe), "--output", "out", "--dry-run")
    assert code == 2
    assert "nothing to sweep" in only(events, "error")["error"]["what"]


def test_a_dry_run_checks_the_trials_and_writes_nothing(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = make_recipe()
    before = sorted(tmp_path.rglob("*"))
    options = ("--recipe", str(recipe), "--dry-run", "--set", "method.r=1,2")
    code, events = tuner(tmp_path, *options)
    assert code == 0
    assert [item["name"] for item in only(events, "trials")["items"]] == ["r-1", "r-2"]
    assert [row["status"] for row in only(events, "sweep")["rows"]] == ["waiting", "waiting"]
    assert sorted(tmp_path.rglob("*")) == before
    code, events = tuner(tmp_path, *options, "--metric", "los")
    assert code == 2
    assert "did you mean 'loss'" in only(events, "error")["error"]["why"]


def test_stages_are_not_run_by_every_trial(tmp_path: Path, bases: Callable[[str], Path]) -> None:
    recipe = write_chain(tmp_path, bases("llama"))
    options = ("--recipe", str(recipe), "--dry-run", "--set", "train.learning_rate=1e-3,1e-4")
    code, events = tuner(tmp_path, *options)
    assert code == 2
    assert "every trial would run it" in only(events, "error")["error"]["what"]


def test_without_the_extra_it_says_what_to_install(
    make_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = importlib.util.find_spec
    missing = lambda name, *rest: None if name == "ray" else true(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    code, events = tuner(tmp_path, "--recipe", str(make_recipe()), "--set", "method.r=1,2")
    error = only(events, "error")["error"]
    assert (code, error["fix"]) == (4, packages.add("ray"))


@pytest.mark.ray
@no_ray
def test_two_trials_through_ray(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Each is a plain run; called again, what is done is found, and only what is new is run."""
    recipe = make_recipe(export={"formats": ["adapter"]}, eval={"samples": 0})

    def sweep(*options: str, code: int = 0) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "tuner", "sweep", "--recipe", str(recipe), "--json"]
        command += ["--output", "out", "--cpus", "1", "--set", "method.r=2", *options]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path
        )
        assert done.returncode == code, done.stderr + done.stdout
        return [json.loads(line) for line in done.stdout.splitlines()]

    events = sweep("--set", "train.learning_rate=0.01,1e-5")
    found = only(events, "sweep")["rows"]
    assert [row["values"]["train.learning_rate"] for row in found] == ["0.01", "1e-5"]
    assert found[0]["after"]["loss"] < found[1]["after"]["loss"] < math.inf
    for row in found:
        record = json.loads((Path(row["folder"]) / "run.json").read_text())
        assert record["status"] == "done"
        rate = record["plan"]["values"]["train.learning_rate"]["value"]
        assert rate == float(row["values"]["train.learning_rate"])
        assert (Path(row["folder"]) / "adapter" / "adapter_model.safetensors").is_file()
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").glob("trials/*/run.*"))]
    events = sweep("--set", "train.learning_rate=0.01,1e-5")
    assert only(events, "sweep")["rows"] == found
    assert times == [
        path.stat().st_mtime_ns for path in sorted((tmp_path / "out").glob("trials/*/run.*"))
    ]
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["status"] == "done"
    rows = only(sweep("--set", "train.learning_rate=0.01,1e30", code=5), "sweep")["rows"]
    assert (rows[1]["exit_code"], rows[1]["error"]["kind"]) == (5, "training")
    log = (tmp_path / "out" / "logs" / f"{rows[1]['name']}.log").read_text()
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert events[-1]["error"] == rows[1]["error"]


@no_ray
def test_a_trial_that_is_killed_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code of the command was -9, which a shell shows as 247, and its kind "bug"."""
    from tuner.run.experiment import ray_tune

    kill = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(processes, "_ours", lambda *given: [sys.executable, "-c", kill])
    trial = Trial(
        name="one", verb="sft", recipe=tmp_path, folder=tmp_path, log=tmp_path / "one.log"
    )
    config = {"name": "one", "trials": {"one": trial}, "cwd": str(tmp_path)}
    ended = ray_tune._run(config)
    assert (ended["exit_code"], ended["error"]["kind"]) == (137, "killed")


@pytest.mark.slow
@pytest.mark.ray
@no_ray
def test_ctrl_c_ends_the_trials_cleanly(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Ray makes a SystemError of what the handler of a signal raises: it was shown as a bug."""
    recipe = make_recipe(export={"formats": ["adapter"]}, eval={"samples": 0})
    command = [sys.executable, "-m", "tuner", "sweep", "--recipe", str(recipe), "--json"]
    command += ["--output", "out", "--cpus", "1", "--set", "method.r=2,4"]
    parent = subprocess.Popen(
        [*command, "--set", "train.epochs=3000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    out = tmp_path / "out"
    while parent.poll() is None and not list(out.glob("trials/*/metrics.jsonl")):
        time.sleep(0.2)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=120)
    assert parent.returncode == 130, said
    assert "finished trials are kept" in said
    assert json.loads((out / "sweep.json").read_text())["status"] == "interrupted"
    statuses = [json.loads(file.read_text())["status"] for file in out.glob("trials/*/run.json")]
    assert set(statuses) == {"interrupted"}
    assert list(out.glob("trials/*/checkpoints/step-*/MANIFEST.json"))
