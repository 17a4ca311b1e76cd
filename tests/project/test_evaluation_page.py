"""docs/evaluation.md, executed: its recipe on such a file, and what the page says of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import rows, write_rows
from tests.run.launched import metrics, record
from tests.tools.make_docs import ROOT
from tuner import cli

PAGE = (ROOT / "docs/evaluation.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_recipe_of_the_page_does_what_the_page_says(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0]
    recipe = yaml.safe_load(text)
    write_rows(tmp_path / recipe["data"]["train"], rows(20))
    recipe["model"]["base"] = str(bases("llama"))
    # Too high a rate on purpose: the held-out rows soon get worse.
    recipe["train"] |= {"learning_rate": 0.2, "scheduler": "constant", "batch_size": 4}
    monkeypatch.chdir(tmp_path)
    Path("letters.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["lora", "--recipe", "letters.yaml", "--quiet"])
    assert not ended.value.code
    run = tmp_path / "runs/letters"
    losses = {line["step"]: line["eval_loss"] for line in metrics(run) if "eval_loss" in line}
    said = record(run)["evaluation"]
    kept, last = said["kept_step"], max(losses)
    assert said["stopped_early"]
    assert losses[kept] == min(losses.values())
    assert list(losses).index(last) - list(losses).index(kept) == 3
    assert [path.name for path in (run / "best").iterdir()] == [f"step-{kept}"]
    assert record(run)["scores"]["last"]["loss"] == losses[last]
    manifest = json.loads((run / "adapter/MANIFEST.json").read_text())
    assert manifest["extra"]["evaluation"]["kept_step"] == kept


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_gate_of_the_page_in_one_step_with_training_and_export(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test rows and gate as on the page; the GGUF is written by another test."""
    _, test, gate = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    recipe = yaml.safe_load(gate)
    recipe["eval"] |= {**yaml.safe_load(test)["eval"], "every": 1}
    assert recipe["export"]["formats"].pop() == {"gguf": "q4_k_m"}
    recipe |= {"model": {"base": str(bases("llama"))}, "train": {"max_steps": 2}}
    monkeypatch.chdir(tmp_path)
    words = ["iron", "ice", "wax", "cork", "salt", "lead", "oak", "ash", "clay", "coal"]
    for name, some in (("tickets", words), ("tests", ["silk", "wool"])):
        items = [
            {"text": f"The {word} price {['rose', 'fell'][n % 2]}.", "label": ["up", "down"][n % 2]}
            for n, word in enumerate(some * 2)
        ]
        write_rows(Path(f"{name}.jsonl"), items)
    recipe["eval"]["gate"] = ["label_accuracy >= 0.8", "label_accuracy > 1"]
    Path("ci.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["lora", "ci.yaml", "--quiet"])
    assert ended.value.code == 5
    found = record(tmp_path / "runs/ci")
    assert found["status"] == "done"
    assert found["gates"][1]["value"] == found["scores"]["test"]["label_accuracy"]
    assert not found["gates"][1]["passed"]
    assert [each["kind"] for each in found["artefacts"]] == ["adapter", "merged"]
