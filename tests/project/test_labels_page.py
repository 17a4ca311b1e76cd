"""docs/labels.md, executed: its recipe on such a file, and what the page says of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import write_rows
from tests.run.launched import record
from tests.tools.make_docs import ROOT
from tuner import cli
from tuner.inference.labels import shown

PAGE = (ROOT / "docs/labels.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_recipe_of_the_page_does_what_the_page_says(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    recipe = yaml.safe_load(text)
    made = [["late", "lost"], ["late"], [], ["lost"]]
    rows = [{"text": f"Letter {n} is {made[n % 4]}.", "labels": made[n % 4]} for n in range(20)]
    write_rows(tmp_path / recipe["data"]["train"], rows)
    recipe["model"]["base"] = str(bases("llama"))
    recipe |= {"train": {"max_steps": 1}, "export": {"formats": ["merged"]}}
    monkeypatch.chdir(tmp_path)
    Path("letters.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["lora", "--recipe", "letters.yaml", "--quiet"])
    assert not ended.value.code
    scores = record(tmp_path / "runs/letters")["scores"]["after"]
    assert [*scores] == ["loss", "micro_f1", "macro_f1", "subset_accuracy"]
    assert all(f"`{name}`" in PAGE for name in scores)
    config = json.loads((tmp_path / "runs/letters/merged/config.json").read_text("utf-8"))
    assert f"problem_type: {config['problem_type']}" in PAGE
    assert config["id2label"] == {"0": "late", "1": "lost"}


def test_the_answer_of_the_page() -> None:
    """The likely ones first; without any, none of them."""
    assert f"`{shown({'lost': 0.069, 'late': 0.931}, 0.5)}`" in PAGE
    assert shown({"lost": 0.2, "late": 0.4}, 0.5) == "(none); below 50 %: late 40.0 %, lost 20.0 %"
    assert shown({"lost": 0.5, "late": 0.6}, 0.5) == "late 60.0 %, lost 50.0 %"
