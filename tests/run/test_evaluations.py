"""Evaluation while training: it changes nothing, keeps the best weights, and stops in time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.group import Groups
from tests.run.launched import assert_equal, metrics, record
from tuner.record import checkpoint
from tuner.record.run_folder import RunFolder
from tuner.run import spine

pytestmark = pytest.mark.usefixtures("in_process")

Runs = Callable[..., dict[str, Any]]
# 16 rows by 4, 24 steps. The rate is too high on purpose: the loss of the held-out rows falls until
# step 4, rises, and falls again much later.
LORA: dict[str, Any] = {
    "method": {"name": "lora", "r": 4, "dropout": 0.2},
    "train": {"epochs": 6, "learning_rate": 0.05, "scheduler": "constant", "save_steps": 5},
    "export": {"formats": ["adapter"]},
}
STOPS: dict[str, Any] = {"every": 2, "stop": {"patience": 3}}


class Killed(Exception):
    """What a process that is killed leaves behind is left behind here."""


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter/adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def evaluated(folder: Path) -> dict[int, float]:
    """The loss of the held-out rows by step."""
    return {line["step"]: line["eval_loss"] for line in metrics(folder) if "eval_loss" in line}


def sealed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_it_changes_neither_weights_nor_metrics(
    make_recipe: Callable[..., Path], run_recipe: Runs, tmp_path: Path
) -> None:
    """Dropout and data order are those of a run without evaluations; the last step is scored."""
    run_recipe(make_recipe(**LORA), "plain")
    plain = tmp_path / "plain"
    found = run_recipe(make_recipe(**LORA, eval={"every": "30%"}), "seen")
    assert same(trained(tmp_path / "seen"), trained(plain))
    losses = evaluated(tmp_path / "seen")
    assert list(losses) == [7, 14, 22, 24]
    steps = [line for line in metrics(tmp_path / "seen") if "eval_loss" not in line]
    assert steps == metrics(plain)
    # Measured once: the scores after training are those of the last evaluation, and right.
    assert found["scores"] == record(plain)["scores"]
    assert found["scores"]["after"]["loss"] == losses[24]
    assert found["evaluation"]["selected_on_held_out_rows"] is False
    assert sealed(tmp_path / "seen/best") == []


def test_the_best_weights_are_kept_and_training_stops(
    make_recipe: Callable[..., Path], run_recipe: Runs, tmp_path: Path
) -> None:
    """The adapter is what training had at that step, and everything that is written says so."""
    train = {**LORA["train"], "checkpoints": 1}
    found = run_recipe(make_recipe(**{**LORA, "train": train}, eval=STOPS), "run")
    folder, losses = tmp_path / "run", evaluated(tmp_path / "run")
    best = min(losses, key=lambda step: losses[step])
    assert list(losses) == [2, 4, 6, 8, 10]
    assert best == 4
    assert found["scores"]["after"]["loss"] == losses[4]
    assert found["scores"]["last"]["loss"] == losses[10]
    # Rotation leaves the newest of `checkpoints`, and the best one alone.
    assert sealed(folder / "checkpoints") == ["step-10"]
    assert sealed(folder / "best") == ["step-4"]
    kept = checkpoint.load(folder / "best/step-4").tensors
    assert same(trained(folder), {_saved(name): value for name, value in kept.items()})
    said = found["evaluation"]
    chosen = {key: said[key] for key in ("metric", "better", "keep", "kept_step", "stopped_early")}
    assert chosen == {
        "metric": "loss",
        "better": "lower",
        "keep": "best",
        "kept_step": 4,
        "stopped_early": True,
    }
    assert said["last"]["step"] == 10
    assert said["selected_on_held_out_rows"] is True
    manifest = json.loads((folder / "adapter/MANIFEST.json").read_text())
    assert manifest["extra"]["evaluation"] == said
    words = "Training stopped early, after step 10 of 24; the weights after step 4 are kept"
    for page in ("adapter/README.md", "report.html"):
        assert words in (folder / page).read_text(), page
    assert "- steps: 4 of 24, 4 rows per step" in (folder / "adapter/README.md").read_text()


def _saved(name: str) -> str:
    return name.replace(".default.", ".")


@pytest.mark.slow
def test_a_gain_below_the_least_change_is_none(
    make_recipe: Callable[..., Path], run_recipe: Runs, tmp_path: Path
) -> None:
    """From 5.9 after step 2 nothing is 50 % better; the best weights are kept all the same."""
    asked = {"every": 2, "stop": {"patience": 2, "min_change": "50%"}}
    found = run_recipe(make_recipe(**LORA, eval=asked), "run")
    assert list(evaluated(tmp_path / "run")) == [2, 4, 6]
    assert found["evaluation"]["kept_step"] == 4


@pytest.mark.slow
def test_more_is_better_where_the_metric_says_so(
    make_recipe: Callable[..., Path], run_recipe: Runs, tmp_path: Path
) -> None:
    stop = {"metric": "token_accuracy", "patience": 4}
    found = run_recipe(make_recipe(**LORA, eval={"every": 2, "stop": stop, "keep": "best"}), "run")
    accuracy = {
        line["step"]: line["eval_token_accuracy"]
        for line in metrics(tmp_path / "run")
        if "eval_token_accuracy" in line
    }
    assert len(set(accuracy.values())) > 1
    # Of equal ones the first.
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert found["evaluation"]["kept_step"] == best
    assert found["scores"]["after"]["token_accuracy"] == accuracy[best]


def kill(monkeypatch: pytest.MonkeyPatch, place: str, number: int) -> None:
    """Stop the run where a checkpoint is sealed or a line of metrics is written."""
    owner: Any = checkpoint if place == "save" else RunFolder
    true, count = getattr(owner, place), [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = true(*args, **kwargs)
        count[0] += 1
        if count[0] == number:
            raise Killed
        return result

    monkeypatch.setattr(owner, place, counted)


# Sealed are, in turn: best 2, best 4, 5, 10. Lines: one per step, one per evaluation. With each the
# evaluations that are still to be made: those of steps that are taken again, too.
KILLS = {("save", 2): 3, ("append_metrics", 12): 3, ("save", 4): 0}


def test_a_killed_run_resumes_exactly(
    make_recipe: Callable[..., Path],
    run_recipe: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C03: with the best weights so far and the patience that is left; killed once the best ones
    are sealed, between two checkpoints, and at the end."""
    recipe = make_recipe(**{**LORA, "export": {"formats": []}}, eval=STOPS)
    run_recipe(recipe, "reference")
    true, scored = spine.evaluate.score, list[int]()
    for number, (kill_at, again) in enumerate(KILLS.items()):
        name = f"run-{number}"
        with monkeypatch.context() as patch:
            kill(patch, *kill_at)
            with pytest.raises(Killed):
                run_recipe(recipe, name)
        scored.clear()
        with monkeypatch.context() as patch:
            patch.setattr(spine.evaluate, "score", lambda *given: scored.append(1) or true(*given))
            run_recipe(recipe, name, resume=True)
        # The scores before training are in the record.
        assert len(scored) == again, kill_at
        resumed, reference = tmp_path / name, tmp_path / "reference"
        assert_equal(resumed, reference)
        assert record(resumed)["evaluation"] == record(reference)["evaluation"]
        for sealed_step in ("best/step-4", "checkpoints/step-10"):
            for file in ("model.safetensors", "optimizer.safetensors"):
                one, other = (each / sealed_step / file for each in (resumed, reference))
                assert one.read_bytes() == other.read_bytes()
        assert sealed(resumed / "best") == ["step-4"]


@pytest.mark.slow
def test_lost_best_weights_are_said_and_chosen_anew(
    make_recipe: Callable[..., Path],
    run_recipe: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = make_recipe(**{**LORA, "export": {"formats": []}}, eval=STOPS)
    with monkeypatch.context() as patch:
        kill(patch, "save", 3)
        with pytest.raises(Killed):
            run_recipe(recipe, "run")
    shutil.rmtree(tmp_path / "run/best")
    found = run_recipe(recipe, "run", resume=True)
    assert "the best weights, of step 4, are no longer in" in capsys.readouterr().err
    losses = {step: loss for step, loss in evaluated(tmp_path / "run").items() if step > 5}
    assert found["evaluation"]["kept_step"] == min(losses, key=lambda step: losses[step])
    assert sealed(tmp_path / "run/best") == [f"step-{found['evaluation']['kept_step']}"]


@pytest.mark.slow
def test_two_processes_agree(
    make_recipe: Callable[..., Path], run_recipe: Runs, tmp_path: Path
) -> None:
    """Both stop after the evaluation that a single process stops after, with the same step's
    weights."""
    recipe = make_recipe(**LORA, eval=STOPS)
    alone = run_recipe(recipe, "alone")["evaluation"]
    groups = Groups(tmp_path)
    try:
        done = groups(recipe, tmp_path / "run", world=2)
    finally:
        groups.close()
    assert done["codes"] == [0, 0], groups.said(0) + groups.said(1)
    found = record(tmp_path / "run")["evaluation"]
    assert [found["kept_step"], found["last"]["step"]] == [4, 10]
    assert [alone["kept_step"], alone["last"]["step"]] == [4, 10]
    assert sealed(tmp_path / "run/best") == ["step-4"]
    kept = checkpoint.load(tmp_path / "run/best/step-4").tensors
    assert same(trained(tmp_path / "run"), {_saved(name): kept[name] for name in kept})
