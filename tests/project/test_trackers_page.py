"""docs/trackers.md, executed: its recipe, its commands, its table and its numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import rows, write_rows
from tests.project.test_packaging import pins
from tests.record.test_trackers import figures
from tests.run.launched import metrics
from tests.tools.make_docs import ROOT
from tuner import cli
from tuner.machine import packages
from tuner.recipe.tracker_names import TRACKER_NAMES
from tuner.record.trackers.table import TRACKERS
from tuner.run.track import child, following

PAGE = (ROOT / "docs/trackers.md").read_text("utf-8")
WORDS = " ".join(PAGE.split())
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.M))


def shows(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words])
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_table_has_every_tracker_with_what_it_needs() -> None:
    assert [*ROWS] == ["tensorboard", "mlflow", "trackio", "wandb", "swanlab"]
    assert {*ROWS} == {*TRACKER_NAMES} == {*TRACKERS}
    for name, row in ROWS.items():
        needed = packages.NEEDED_BY[TRACKERS[name].module]
        assert f"pip install {' '.join(repr(text) for text in needed)}" in row
    for name, package in (("tensorboard", "tensorboard"), ("mlflow", "mlflow-skinny"),
                          ("trackio", "trackio"), ("wandb", "wandb")):  # fmt: skip
        assert f"| {pins()[package]}" in ROWS[name]


def test_the_numbers_of_the_page_are_those_of_the_program() -> None:
    assert f"up to {following.PATIENCE:.0f} seconds" in WORDS
    assert f"({following.STOPPED_PATIENCE:.0f} if it was stopped)" in WORDS
    assert child.LONGEST_PAUSE == 60
    assert "at most a minute later" in WORDS


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_recipe_of_the_page_is_followed_as_the_page_says(
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    recipe = yaml.safe_load(text)
    write_rows(tmp_path / recipe["data"]["train"], rows(20))
    recipe["model"]["base"] = str(bases("llama"))
    # mlflow may be missing, and its first database takes ten seconds.
    recipe["run"]["track"] = ["tensorboard"]
    recipe["train"] = {"batch_size": 4, "epochs": 1}
    recipe["export"] = {"formats": ["adapter"]}
    monkeypatch.chdir(tmp_path)
    Path("letters.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    planned = shows(capsys, "plan", "letters.yaml", "--verbose", "--output", "runs/legal")
    assert "track       tensorboard runs/legal/tensorboard;" in planned
    assert "project letters;" in planned
    assert "name first try;" in planned
    sent = planned.partition("\nsent  ")[2].partition("\n\n")[0]
    for setting in ("method.name=lora;", "run.seed=42;", "parameters.trainable="):
        assert setting in sent
    assert "letters.jsonl" not in sent
    shows(capsys, "lora", "letters.yaml", "--output", "runs/legal")
    shown = figures(tmp_path / "runs/legal/tensorboard")
    trained = [line["step"] for line in metrics(tmp_path / "runs/legal") if "loss" in line]
    assert [step for step, _ in shown["train/loss"]] == trained
    assert {"train/learning_rate", "train/grad_norm", "train/tokens"} <= shown.keys()
    assert {"before/loss", "after/loss"} <= shown.keys()
    (command,) = re.findall(r"^tuner (runs track .*)$", PAGE, re.M)
    assert "nothing left to send to tensorboard" in shows(capsys, *command.split())
