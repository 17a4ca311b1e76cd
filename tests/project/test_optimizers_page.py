"""docs/optimizers.md, executed: its recipe and its command, and what its table says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import rows, write_rows
from tests.run.launched import metrics, record
from tests.tools.make_docs import ROOT
from tuner import cli
from tuner.model.layers import Weight
from tuner.plan.optimizers import OPTIMIZERS
from tuner.recipe.schema_train import OF_SCHEDULE, WITHOUT_ADAM, TrainSection
from tuner.record import checkpoint
from tuner.tasks.optimizer import rate_share

PAGE = (ROOT / "docs/optimizers.md").read_text("utf-8")


def table(title: str) -> dict[str, list[str]]:
    """The rows of a table by the name in their first cell."""
    part = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    cells = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| `")][
        1:
    ]
    return {row[0].split("`")[1]: [cell.strip() for cell in row[1:]] for row in cells}


def test_the_table_of_optimizers_is_that_of_the_program() -> None:
    shown = table("Optimizers")
    assert list(shown) == list(OPTIMIZERS)
    for name, (_, width, rate, adam, _) in shown.items():
        row = OPTIMIZERS[name]
        assert float(rate.removeprefix("x ")) == row.rate
        assert (adam == "no") == (name in WITHOUT_ADAM)
        kept = row.bytes_of([Weight((1024, 1024))]) / 1024**2
        if width == "below 1":
            assert 0 < kept < 1
        else:
            assert kept == pytest.approx(float(width.removeprefix("about ")), rel=0.02)
    assert OPTIMIZERS["adamw8bit"].bytes_of([Weight((4095,))]) == 8 * 4095
    assert OPTIMIZERS["adamw8bit"].bytes_of([Weight((99, 99), "embedding")]) == 8 * 99**2


def test_the_table_of_schedules_is_that_of_the_program() -> None:
    shown = table("Schedules")
    schedules = TrainSection.model_json_schema()["properties"]["scheduler"]["enum"]
    assert list(shown) == [name for name in schedules if name != "auto"]
    usual = TrainSection()
    for key, name in OF_SCHEDULE.items():
        assert f"`train.{key}`" in shown[name][1]
        assert shown[name][1].endswith(f" {getattr(usual, key)}".removesuffix(".0"))
    wanted: dict[str, Callable[[float], float]] = {
        "1 - t": lambda t: 1 - t,
        "(1 + cos(pi t)) / 2": lambda t: (1 + math.cos(math.pi * t)) / 2,
        "1": lambda t: 1.0,
        "(1 - t)^power": lambda t: (1 - t) ** usual.power,
    }
    for name, (formula, *_) in shown.items():
        if formula in wanted:
            for n in range(11):
                share = rate_share(name, 5 + n, 15, 5, usual)
                assert share == pytest.approx(wanted[formula](n / 10), abs=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_recipe_and_the_command_of_the_page(
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    recipe = yaml.safe_load(text)
    write_rows(tmp_path / recipe["data"]["train"], rows(20))
    recipe["model"]["base"] = str(bases("llama"))
    monkeypatch.chdir(tmp_path)
    Path("letters.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    with pytest.raises(SystemExit) as ended:
        cli.main(["lora", "--recipe", "letters.yaml", "--quiet"])
    assert not ended.value.code
    run = tmp_path / "runs/letters"
    values = record(run)["plan"]["values"]
    assert values["train.learning_rate"]["value"] == 4e-4
    assert values["train.scheduler"]["value"] == "constant"
    last = checkpoint.load(run / f"checkpoints/step-{metrics(run)[-1]['step']}")
    assert any(name.endswith("/training") for name in last.optimizer_tensors)
    capsys.readouterr()
    (command,) = re.findall(r"```sh\n(.*?)\n```", PAGE, re.S)
    words = command.split()[1:]
    words[words.index("recipes/legal.yaml")] = str(ROOT / "recipes/legal.yaml")
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--set", f"model.base={bases('llama')}"])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "adamw8bit" in said
    assert "optimizer" in said.partition("memory")[2]
