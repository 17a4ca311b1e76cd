"""docs/rows.md, executed: its recipe on such a file, and what its table says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import write_rows
from tests.tools.make_docs import ROOT
from tuner.cli import show_plan
from tuner.console.console import Console
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import load

PAGE = (ROOT / "docs/rows.md").read_text("utf-8")


def test_the_recipe_of_the_page_is_planned_as_it_says(
    bases: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (said,) = re.findall(r"```text\n(.*?)```", PAGE, re.S)
    data = yaml.safe_load(text)["data"]
    labels = ["bills"] * 80 + ["repairs"] * 80
    rows = [
        {"text": f"Letter {n}. " + "Do it. " * 90 * (n % 20 == 3), "label": label}
        for n, label in enumerate(labels)
    ]
    write_rows(tmp_path / data["train"], rows)
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump({"model": {"base": str(bases("llama"))}, "data": data}), "utf-8"
    )
    loaded = load.load(tmp_path / "r.yaml", verb="lora")
    made = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    show_plan.plan(made, Console())
    assert said.strip() in capsys.readouterr().out
    report = made.prepared.report
    assert (report["rows_train"], report["rows_eval"]) == (48, 12)
    assert report["labels_eval"] == {"bills": 6, "repairs": 6}
    assert report["longest"] <= 200
    drawn = {each.row for each in made.prepared.train}
    long = {f"{data['train']}:{n + 1}" for n in range(160) if n % 20 == 3}
    assert report["documents_cut"] == len(drawn & long)
    assert report["supervised_tokens_cut_share"] == 0


def test_the_page_names_every_way() -> None:
    schema = load.Recipe.model_json_schema()["$defs"]["DataSection"]["properties"]
    for key in ("cut", "long", "split", "draw"):
        for value in schema[key]["enum"]:
            usual = value in ("auto", schema[key]["default"])
            assert usual or f"{key}: {value}" in PAGE, value
