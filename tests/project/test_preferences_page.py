"""docs/preferences.md, executed: its recipes, its rows, its function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tests.conftest import write_rows
from tests.data.test_preferences import prepared
from tuner.data.columns import preference_names
from tuner.data.columns.preference_formats import PREFERENCE_FORMATS
from tuner.errors import DataError
from tuner.plan import preferences
from tuner.plan.values import Values
from tuner.recipe import load
from tuner.recipe.schema_preference import OF_ROWS, DpoSection
from tuner.recipe.schema_rlhf import GrpoSection
from tuner.rewards import code
from tuner.rewards.response import Response
from tuner.rewards.rules import RULES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/preferences.md").read_text("utf-8")
OWN = PAGE.partition("\n## GRPO and its kin\n")[2].partition("\n## ")[0]
FILES = PAGE.partition("\n## Files of preferences\n")[2].partition("\n## ")[0]


def blocks(kind: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def test_the_recipes_of_the_page_are_recipes() -> None:
    lines = blocks("sh")[0].splitlines()
    for line in lines:
        _, verb, _, path = line.split()
        assert load.load(ROOT / path, (), verb).recipe.data.train
    assert len(lines) == 4


def test_the_table_of_losses_is_what_plans_decide(tmp_path: Path) -> None:
    losses = PAGE.partition("\n## Losses\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? ?\| ([\d.]+) \| (yes|no) \|", losses, re.M)
    assert {name for name, *_ in rows} == {*OF_ROWS}
    assert [loss for _, loss, *_ in rows if loss] == list(
        get_args(DpoSection.model_fields["loss"].annotation)
    )
    for algorithm, loss, number, reference in rows:
        given = [f"rlhf.algorithm={algorithm}", "rlhf.kl_coefficient=auto"]
        given += [f"dpo.loss={loss}"] if loss else []
        loaded = load.load(ROOT / "recipes/dpo.yaml", given, "rlhf")
        values = Values(loaded)
        preferences.decide(loaded.recipe, values)
        assert values.now("rlhf.kl_coefficient") == float(number)
        assert loaded.recipe.rlhf is not None
        assert loaded.recipe.rlhf.compares == (reference == "yes")
        if smoothed := re.search(rf"`{loss}` \|.*`dpo.label_smoothing` \(([\d.]+)\)", losses):
            assert values.now("dpo.label_smoothing") == float(smoothed[1])
    for line in blocks("sh", losses)[0].splitlines():
        _, verb, _, path, *options = line.split()
        assert load.load(ROOT / path, options[1::2], verb).recipe.rlhf is not None


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_the_recipe_with_an_own_reward_trains_as_it_is_shown(
    tmp_path: Path, make_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    """On a tiny base, with fewer and shorter answers."""
    shown = yaml.safe_load(blocks("yaml", OWN)[0])
    (text,) = blocks("python")
    (tmp_path / "own.py").write_text(text, "utf-8")
    (row,) = re.findall(r"`(\{.*?\})`", OWN)
    others = [{"prompt": f"Who has {number}?"} for number in range(9)]
    write_rows(tmp_path / "questions.jsonl", [json.loads(row), *others])
    shown["data"] |= {"eval": 0.2, "template": "auto"}
    shown["rlhf"]["max_new_tokens"] = 6
    # Hardly an answer of a random base ends.
    assert shown["grpo"].pop("mask_truncated")
    ends = {"eval": {"max_new_tokens": 4}, "export": {"formats": ["adapter"]}}
    shown["train"] |= {"batch_size": 8, "max_steps": 2}
    found = run_recipe(make_recipe(**shown, **ends), verb="rlhf")
    assert found["status"] == "done"
    assert not found["unmoved_tensors"]
    assert found["scores"]["after"]["reward"] < 0


def test_the_table_of_grpo_has_each_loss() -> None:
    losses = get_args(GrpoSection.model_fields["loss"].annotation)
    assert re.findall(r"^\| `(\w+)` \|", OWN, re.MULTILINE) == [*losses]


def test_the_recipe_that_is_shown_is_in_the_recipe() -> None:
    shown = yaml.safe_load(blocks("yaml")[0])
    whole = yaml.safe_load((ROOT / "recipes/rlhf.yaml").read_text("utf-8"))
    assert shown["data"] == whole["data"]
    assert shown["rlhf"].items() <= whole["rlhf"].items()


def test_each_row_of_the_page_says_the_same(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in blocks("json", FILES)[0].splitlines()]
    formats = set()
    for row in rows:
        result = prepared(tmp_path, [row])
        ((better, worse, _),) = result.train[0].pairs
        texts = result.train[0].texts
        assert (texts[better], texts[worse]) == ("Nine metres.", "Deep."), row
        assert result.train[0].prompt_text == "How deep is it?"
        formats.add(result.template)
    assert formats == {each.name for each in PREFERENCE_FORMATS} - {"thumbs"}


def test_the_table_names_the_formats_and_columns_that_there_are() -> None:
    named = re.findall(r"^\| `(\w+)` \|", FILES, re.MULTILINE)
    assert named == list(
        dict.fromkeys(name for name in named if name in {each.name for each in PREFERENCE_FORMATS})
    )
    assert {*named} == {each.name for each in PREFERENCE_FORMATS}
    columns = re.findall(r"`([\w回答]+)`", FILES)
    unknown = {"data", "disliked", "drop", "learn", "rank", "model_a", "output_1_score", "sft"}
    unknown |= {"gpt4", "gpt4_output"}
    odd = [
        name
        for name in columns
        if name not in {*unknown, *named} and not preference_names.of_the_task(name)
    ]
    assert odd == []


def test_the_columns_of_the_page_settle_what_it_says(tmp_path: Path) -> None:
    """As they are printed: 1 means the answer in human_ref_A."""
    columns = yaml.safe_load(blocks("yaml", FILES)[0])["data"]["columns"]
    answers = {"human_ref_A": "Nine metres.", "human_ref_B": "Deep."}
    rows = [{"history": f"{n}?", **answers, "labels": n} for n in (0, 1)]
    with pytest.raises(DataError, match="in two ways") as caught:
        prepared(tmp_path, rows, columns={"prompt": "history"})
    printed = [line.split("data.columns: ")[1] for line in caught.value.fix.splitlines()[1:]]
    assert columns in [{**yaml.safe_load(line), "prompt": "history"} for line in printed]
    made = prepared(tmp_path, rows, columns=columns)
    assert [row.texts[0] for row in made.train] == ["Deep.", "Nine metres."]


def test_the_function_of_the_page_is_a_reward(tmp_path: Path) -> None:
    (text,) = blocks("python")
    (tmp_path / "own.py").write_text(text, "utf-8")
    scorer: Any = code.load("own.py:short", tmp_path, True)
    responses = [Response("r:1", "q", said, "", 1, True, (), ()) for said in ("a", "")]
    assert list(scorer(responses)) == [-0.01, 0.0]
    rules = re.findall(r"`(\w+)`", PAGE.partition("the rules ")[2].partition(", and Python")[0])
    assert {*rules} == {*RULES}
