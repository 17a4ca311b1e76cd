"""docs/other-tools.md, executed: its errors, its YAML, the command, and the recipe it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.command import tuner
from tests.tools.make_docs import ROOT

PAGE = (ROOT / "docs/other-tools.md").read_text("utf-8")


def test_the_errors_of_the_page_are_those_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "data: {train: a.jsonl}\ntrain:\n  num_train_epochs: 3\n  neftune_noise_alpha: 5\n"
        "method: {name: qlora}\n",
        "utf-8",
    )
    done = tuner("plan", "r.yaml", cwd=tmp_path)
    (said,) = re.findall(r"```text\n(.*?)```", PAGE, re.S)
    assert done.returncode == 2
    for line in said.splitlines():
        assert line in done.stderr, done.stderr


def test_the_yaml_of_the_page_becomes_its_recipe(tmp_path: Path) -> None:
    given, recipe = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (command,) = re.findall(r"```console\n(.*?)\n```", PAGE, re.S)
    words = shlex.split(command)
    (tmp_path / words[3]).write_text(given, "utf-8")
    done = tuner(*words[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.yaml").read_text("utf-8") == recipe


def test_the_page_names_what_is_refused(tmp_path: Path) -> None:
    base = "model_name_or_path: org/base\ndataset: a.jsonl\n"
    for line, word in (
        ("stage: bco", "BCO"),
        ("pref_loss: aot\nstage: dpo", "AOT"),
        ("image_max_pixels: 9", "images"),
        ("finetuning_type: freeze", "frozen layers"),
    ):
        (tmp_path / "a.yaml").write_text(f"{base}{line}\n", "utf-8")
        done = tuner("recipes", "convert", "a.yaml", "--output", "r.yaml", cwd=tmp_path)
        assert (done.returncode, (tmp_path / "r.yaml").exists()) == (2, False)
        assert word in " ".join(PAGE.split())
