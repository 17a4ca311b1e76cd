"""Runs and locks of earlier versions keep the rows that they had, cut as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.cli.make_plan import as_begun
from tuner.machine import hardware
from tuner.plan import make
from tuner.plan.plan import Plan
from tuner.recipe import dump, history_rows, load
from tuner.recipe.load import LoadedRecipe
from tuner.recipe.source import LOCK
from tuner.record import disk
from tuner.run import content

OLD = {"split": "row", "draw": "first", "cut": "answer", "max_length": "context"}
# Same prompts, labels in blocks, a row whose answer is cut, more rows than `max_rows`.
ROWS = [
    {"instruction": f"Sort {n % 7}.", "input": "", "output": "rent" if n < 9 else "notice"}
    for n in range(24)
]
ROWS[3]["output"] = "rent " * 120
DATA = {"template": "instruction", "eval": 4, "max_rows": 20, "labels": ["rent", "notice"]}


@pytest.fixture
def recipe(make_recipe: Callable[..., Path]) -> Path:
    return make_recipe(data_rows=ROWS, data={**DATA, "long": "truncate", "max_length": 100})


def planned(loaded: LoadedRecipe, folder: Path) -> Plan:
    return make.make(loaded, hardware.detect(), output=folder)


def without(record: dict[str, Any]) -> dict[str, Any]:
    """A plan as an earlier version recorded it."""
    kept = {key: value for key, value in record["values"].items() if key not in history_rows.ROWS}
    kept["data.max_length"] = record["values"]["data.max_length"]
    return {**record, "values": kept}


def test_a_run_is_resumed_with_the_rows_it_began_with(recipe: Path, tmp_path: Path) -> None:
    """However often, and a chain finds it done by the recipe as it is."""
    folder = tmp_path / "run"
    folder.mkdir()
    sets = [f"data.{key}={value}" for key, value in OLD.items() if key != "max_length"]
    began = planned(load.load(recipe, sets, "sft"), folder)
    loaded = load.load(recipe, verb="sft")
    now = planned(loaded, folder)
    assert now.identity() != began.identity()
    record = without(began.as_dict())
    for _ in range(2):
        disk.write_json(
            folder / "run.json", {"format": 1, "tuner": "0.1.0", "status": "failed", "plan": record}
        )
        again = as_begun(loaded, folder)
        resumed = planned(again, folder)
        assert resumed.identity() == began.identity()
        assert [row.prompt_ids for row in resumed.prepared.eval] == [
            row.prompt_ids for row in began.prepared.eval
        ]
        assert content.content_sha256(again) == content.content_sha256(loaded)
        record = resumed.as_dict()


def test_a_run_of_this_version_is_resumed_as_it_is(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    loaded = load.load(recipe, verb="sft")
    began = planned(loaded, folder)
    record = {"format": 1, "tuner": "0.1.0", "status": "failed", "plan": began.as_dict()}
    disk.write_json(folder / "run.json", record)
    assert as_begun(loaded, folder).recipe.data == loaded.recipe.data


def test_a_lock_of_an_earlier_version_says_what_was_done(recipe: Path, tmp_path: Path) -> None:
    loaded = load.load(recipe, ["data.max_length=auto"], "sft")
    tree = yaml.safe_load(dump.dump(loaded.recipe, loaded.folder))
    new = tmp_path / "new" / LOCK
    new.parent.mkdir()
    new.write_text(yaml.safe_dump(tree), "utf-8")
    assert load.load(new, verb="sft").recipe.data.split == "prompt"
    for key in ("split", "draw", "cut"):
        del tree["data"][key]
    lock = tmp_path / LOCK
    lock.write_text(yaml.safe_dump(tree), "utf-8")
    data = load.load(lock, verb="sft").recipe.data
    assert {key: getattr(data, key) for key in OLD} == OLD
    tree["data"]["max_length"] = 64
    lock.write_text(yaml.safe_dump(tree), "utf-8")
    assert load.load(lock, verb="sft").recipe.data.max_length == 64
    del tree["eval"]["samples"]
    plain = tmp_path / "r.yaml"
    plain.write_text(yaml.safe_dump(tree), "utf-8")
    assert load.load(plain, verb="sft").recipe.data.split == "prompt"


@pytest.mark.parametrize("verb", ["reward", "rlhf"])
def test_preferences_and_prompts_of_an_old_lock_are_not_cut(
    make_recipe: Callable[..., Path], tmp_path: Path, verb: str
) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(8)]
    keys: dict[str, Any] = {"rlhf": {"algorithm": "dpo"}} if verb == "rlhf" else {}
    made = make_recipe(data_rows=rows, data={"template": "auto", "eval": 2}, **keys)
    loaded = load.load(made, verb=verb)
    now = planned(loaded, tmp_path / "run")
    tree = yaml.safe_load(dump.dump(loaded.recipe, loaded.folder))
    for key in ("split", "draw", "cut"):
        del tree["data"][key]
    lock = tmp_path / LOCK
    lock.write_text(yaml.safe_dump(tree), "utf-8")
    again = planned(load.load(lock, verb=verb), tmp_path / "run")
    assert again.recipe.data.cut == "drop"
    assert again.prepared.report["tokens_sha256"] == now.prepared.report["tokens_sha256"]
    assert again.values["data.max_length"].value == 512
    (tmp_path / "run").mkdir()
    record = {"format": 1, "tuner": "0.1.0", "status": "failed", "plan": without(again.as_dict())}
    disk.write_json(tmp_path / "run/run.json", record)
    resumed = planned(as_begun(loaded, tmp_path / "run"), tmp_path / "run")
    assert resumed.identity() == again.identity()


def test_keys_of_rows_change_no_digest_of_an_earlier_version(recipe: Path) -> None:
    """A finished stage is recognised by it; but what a recipe sets counts."""
    loaded = load.load(recipe, verb="sft")
    said = yaml.safe_load(dump.meaning(loaded).partition("\n")[2])
    assert not {"split", "draw", "cut"} & said["data"].keys()
    assert "chat_date" not in said["model"]
    other = load.load(recipe, ["data.split=row"], "sft")
    assert content.content_sha256(other) != content.content_sha256(loaded)
