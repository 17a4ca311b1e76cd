"""docs/going-on.md, executed: each command on a tiny base, in the order of the page."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import rows, write_rows
from tests.export.exporting import command
from tests.run.launched import record
from tests.tools.make_docs import ROOT
from tuner.recipe import load

PAGE = (ROOT / "docs/going-on.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
]


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_commands_of_the_page_do_what_it_says(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("Say number 3.\n"))
    write_rows(Path("rows.jsonl"), rows(200))
    write_rows(Path("new.jsonl"), rows(100, start=300))
    recipe = {
        "model": {"base": str(bases("llama"))},
        "data": {"train": "rows.jsonl", "eval": 4, "template": "instruction"},
        "method": {"name": "lora", "r": 2},
        "train": {"epochs": 1, "batch_size": 4, "save_steps": 50, "checkpoints": 9},
        "eval": {"every": 20, "keep": "best", "samples": 0},
        "export": {"formats": ["adapter"]},
    }
    Path("legal.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    code, events = command("lora", "--recipe", "legal.yaml")
    assert code == 0, events
    done = [" ".join(words) for words in COMMANDS]
    assert len(done) == 7
    for number, words in enumerate(COMMANDS):
        # A finished run is not what the first two are for: they are planned.
        further = ["--dry-run"] if number < 2 else []
        if "train.epochs=4" in words:
            words = [word.replace("train.epochs=4", "train.epochs=1.2") for word in words]
        code, events = command(*words, *further)
        assert code == 0, (words, events)
    legal = record(Path("runs/legal"))
    assert legal["resumes"][-1]["extended"]["from_step"] == 49
    assert Path("runs/legal/until-step-49/adapter").is_dir()
    assert record(Path("runs/further"))["plan"]["start"]["how"] == "continued"
    assert record(Path("runs/above"))["plan"]["start"]["how"] == "folded"
    assert list(Path("runs/legal").glob("step-*/merged/model.safetensors"))


def test_the_recipe_of_the_page_says_what_the_option_does(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "r.yaml").write_text(text, "utf-8")
    recipe = load.load(tmp_path / "r.yaml").recipe
    assert recipe.method.continues
    assert recipe.model.adapter == "runs/legal"
