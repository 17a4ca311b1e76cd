"""What a plan says and refuses before anything is loaded or written: C10, H07, and the schedule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tuner.errors import ResourceError
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import dump
from tuner.recipe import load as recipe_load
from tuner.tasks.optimizer import rate_share


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def make(recipe: Path, output: Path) -> plan.Plan:
    return plan_make.make(recipe_load.load(recipe, verb="sft"), hardware.detect(), output=output)


def bytes_under(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_disk_too_small_stops_the_plan(
    make_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """C10: exit 7 with what it needs and has, before a folder is made."""
    recipe, output = make_recipe(), tmp_path / "runs" / "new"
    needed = make(recipe, output).facts["disk"]["total"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, needed - 1))
    with pytest.raises(ResourceError) as caught:
        make(recipe, output)
    assert caught.value.exit_code == 7
    assert f"needs {needed:,} bytes, has {needed - 1:,} free" in str(caught.value)
    assert not output.parent.exists()
    # What a resumed run has written already is not asked for again.
    output.mkdir(parents=True)
    (output / "checkpoint").write_bytes(b"x")
    make(recipe, output)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_estimate_covers_the_whole_run(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., dict[str, Any]],
    tmp_path: Path,
    method: str,
) -> None:
    """C10"""
    recipe = make_recipe(method={"name": method}, train={"save_steps": 1})
    disk = make(recipe, tmp_path / "run").facts["disk"]
    run_recipe(recipe)
    written = bytes_under(tmp_path / "run")
    assert written <= disk["checkpoints"] + disk["artefacts"]
    # But for the fixed share of tokenizer and records it is near.
    fixed = (32 << 20) + 3 * (1 << 20)
    assert disk["checkpoints"] + disk["artefacts"] - fixed <= 2 * written


def test_the_plan_says_which_part_is_adapted(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """H07"""
    named = {"name": "lora", "target_modules": ["q_proj"]}
    facts = make(make_recipe(method=named), tmp_path / "run").facts
    adapted = facts["adapted"]
    assert (adapted["modules"], adapted["in_layers"], adapted["of_layers"]) == (2, 2, 2)
    # Two square projections of hidden size 64.
    assert adapted["weights_share"] == 2 * 64 * 64 / facts["parameters"]["total"]
    assert "adapted" not in make(make_recipe(method={"name": "full"}), tmp_path / "run").facts


def test_a_run_of_one_step_takes_it_at_the_full_rate(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    made = make(make_recipe(train={"max_steps": 1}), tmp_path / "run")
    (stage,) = made.stages
    assert (stage.steps, stage.warmup_steps) == (1, 0)
    train = made.recipe.train
    assert rate_share("cosine", 0, stage.steps, stage.warmup_steps, train) == 1.0


def test_steps_that_the_epochs_do_not_reach_are_said(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """16 rows in batches of 3: the epochs that are named reach the steps, one less does not."""
    train = {"max_steps": 50, "batch_size": 3, "epochs": 2}
    made = make(make_recipe(train=train), tmp_path / "run")
    assert made.steps == 11
    (said,) = [text for text in made.warnings if "max_steps" in text]
    assert "train.max_steps: 50 is more than the epochs have: the run ends after 11" in said
    needed = int(said.rpartition("train.epochs: ")[2])
    for epochs in (needed, needed - 1):
        made = make(make_recipe(train={**train, "epochs": epochs}), tmp_path / "run")
        assert (made.steps == 50) == (epochs == needed)
        assert any("max_steps" in text for text in made.warnings) == (epochs < needed)


def test_a_lock_names_its_base_wherever_it_is_read(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """A base beside the recipe is found from any folder; an alias stays an alias."""
    shutil.copytree(bases("llama"), tmp_path / "base")
    data = tmp_path / "train.jsonl"
    data.write_text('{"instruction": "Say a.", "output": "a"}\n', "utf-8")
    for base, wanted in (("base", str(tmp_path / "base")), ("smollm2-135m", "smollm2-135m")):
        (tmp_path / "smollm2-135m").mkdir(exist_ok=True)
        recipe = tmp_path / "r.yaml"
        recipe.write_text(f"model: {{base: {base}}}\ndata: {{train: train.jsonl}}\n", "utf-8")
        loaded = recipe_load.load(recipe, verb="lora")
        lock = tmp_path / "elsewhere.yaml"
        lock.write_text(dump.dump(loaded.recipe, loaded.folder), "utf-8")
        assert recipe_load.load(lock, verb="lora").recipe.model.base == wanted


@pytest.mark.parametrize(
    ("columns", "template"),
    [(("问题", "回答"), "qa_zh"), (("指令", "输出"), "instruction_zh")],
)
def test_chinese_columns_name_their_template(
    columns: tuple[str, str], template: str, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    made = [{columns[0]: f"第{n}个问题？", columns[1]: f"答案{n}"} for n in range(4)]
    recipe = make_recipe(data_rows=made, data={"template": "auto", "eval": 0.25})
    assert make(recipe, tmp_path / "run").prepared.template == template
