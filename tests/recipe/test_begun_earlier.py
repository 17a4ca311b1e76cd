"""Runs that an earlier version began read what they read: preferences, and answers labelled bad."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tuner.cli.make_plan import as_begun
from tuner.errors import DataError
from tuner.machine import hardware
from tuner.plan import make
from tuner.plan.plan import Plan
from tuner.recipe import dump, history, load
from tuner.record import disk
from tuner.run import content

Make = Callable[..., Path]
PAIRS = [
    {"prompt": f"<user>Go {n}?<bot>", "chosen": f"Yes {n}.", "rejected": "No.", "context": "Here."}
    for n in range(4)
]
THUMBS = [{"prompt": f"Go {n}?", "completion": f"Yes {n}.", "label": n % 2 == 0} for n in range(4)]


def planned(recipe: Path, folder: Path, verb: str) -> Plan:
    return make.make(load.load(recipe, (), verb), hardware.detect(), output=folder / "run")


def begun(folder: Path, plan: Plan, **changed: Any) -> dict[str, Any]:
    """The record of an earlier version: without the keys that it had not."""
    record = plan.as_dict()
    record["values"].pop("data.disliked")
    record["values"] |= {
        key: {"value": value, "origin": "default"} for key, value in changed.items()
    }
    (folder / "run").mkdir(exist_ok=True)
    head = {"format": 1, "tuner": "0.1.0", "status": "interrupted", "plan": record}
    disk.write_json(folder / "run" / "run.json", head)
    return record


def test_pairs_are_read_without_the_columns_that_were_not_used(
    make_recipe: Make, tmp_path: Path
) -> None:
    keys = {"template": "auto", "eval": 0}
    recipe = make_recipe(data_rows=PAIRS, data=keys)
    with pytest.raises(DataError, match="part of the task would not be used: context"):
        planned(recipe, tmp_path, "reward")
    then = {**keys, "template": "pairs", "columns": {"context": "none"}}
    old = planned(make_recipe(data_rows=PAIRS, name="old.yaml", data=then), tmp_path, "reward")
    assert old.prepared.report["ignored_columns"] == ["context"]
    begun(tmp_path, old, **{"data.columns": {}})
    again = as_begun(load.load(recipe, (), "reward"), tmp_path / "run")
    resumed = make.make(again, hardware.detect(), output=tmp_path / "run")
    assert resumed.prepared.train[0].prompt_text == "<user>Go 0?<bot>"
    saved = {**old.identity(), "data.columns": {}}
    assert history.identity(saved, resumed.identity()) == resumed.identity()
    # And once more, from the record of the run that was resumed.
    disk.write_json(
        tmp_path / "run" / "run.json",
        {"format": 1, "tuner": "0.1.0", "status": "interrupted", "plan": resumed.as_dict()},
    )
    last = as_begun(load.load(recipe, (), "reward"), tmp_path / "run")
    assert last.recipe.data == again.recipe.data


def test_answers_labelled_bad_are_left_out_as_they_were(make_recipe: Make, tmp_path: Path) -> None:
    keys = {"template": "auto", "eval": 0}
    recipe = make_recipe(data_rows=THUMBS, data=keys)
    with pytest.raises(DataError, match="2 of 4 rows have an answer that is labelled bad"):
        planned(recipe, tmp_path, "sft")
    then = make_recipe(data_rows=THUMBS, name="old.yaml", data={**keys, "disliked": "drop"})
    old = planned(then, tmp_path, "sft")
    begun(tmp_path, old)
    again = as_begun(load.load(recipe, (), "sft"), tmp_path / "run")
    resumed = make.make(again, hardware.detect(), output=tmp_path / "run")
    assert resumed.prepared.report["thumbs_down_rows"] == 2
    assert history.identity(old.identity(), resumed.identity()) == resumed.identity()
    # What the recipe says counts.
    told = load.load(recipe, ["data.disliked=learn"], "sft")
    assert as_begun(told, tmp_path / "run").recipe.data.disliked == "learn"


def test_stop_tokens_in_answers_stay_the_text_that_they_were(
    make_recipe: Make, tmp_path: Path
) -> None:
    rows = [{"instruction": f"Say {n}.", "output": f"rent {n}<|im_end|>"} for n in range(6)]
    recipe = make_recipe(data_rows=rows, data={"eval": 0})
    loaded = load.load(recipe, (), "sft")
    then = {"eval": 0, "special_tokens_in_text": "literal"}
    old = planned(make_recipe(data_rows=rows, name="old.yaml", data=then), tmp_path, "sft")
    assert planned(recipe, tmp_path, "sft").prepared.train != old.prepared.train
    begun(tmp_path, old)
    again = as_begun(loaded, tmp_path / "run")
    resumed = make.make(again, hardware.detect(), output=tmp_path / "run")
    assert resumed.prepared.train == old.prepared.train
    assert history.identity(old.identity(), resumed.identity()) == resumed.identity()
    # A chain finds a run that began so, and one of the recipe as it is now; not of another.
    other = load.load(recipe, ["data.special_tokens_in_text=literal"], "sft")
    assert content.content_sha256(other) != content.content_sha256(loaded)
    lines = {line for each in (again, loaded) for line in dump.meaning(each).splitlines()}
    assert [line for line in lines if "special" in line] == ['  special_tokens_in_text: "literal"']
    # What the recipe says counts.
    told = load.load(recipe, ["data.special_tokens_in_text=allow"], "sft")
    assert as_begun(told, tmp_path / "run").recipe.data.special_tokens_in_text == "allow"


def test_a_run_is_asked_as_its_last_answers_were(make_recipe: Make, tmp_path: Path) -> None:
    """An earlier version counted only those; the plan of a new run counts all that are learned."""
    turns = [
        {"role": "user", "content": "Go?"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "It is so."},
    ]
    last = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    rows = [{"messages": [*turns, *turns, *last]} for _ in range(4)]
    keys = {"template": "auto", "eval": 0}
    recipe = make_recipe(data_rows=rows, data=keys, model={"chat_template": "qwen3"})
    loaded, off = load.load(recipe, (), "sft"), {"enable_thinking": False}
    now = planned(recipe, tmp_path, "sft")
    assert now.values["model.chat_arguments"].value is None
    assert as_begun(loaded, tmp_path / "run") == loaded
    record = now.as_dict()
    record["data"].pop("earlier_turns")
    record["values"]["model.chat_arguments"] = {"value": off, "origin": "auto: 0 of 4 rows"}
    record["values"]["data.reasoning"] = {"value": "auto", "origin": "default"}
    saved = {**now.identity(), "model.chat_arguments": off, "data.reasoning": "auto"}
    head = {"format": 1, "tuner": "0.1.0", "status": "interrupted"}
    for _ in range(2):
        (tmp_path / "run").mkdir(exist_ok=True)
        disk.write_json(tmp_path / "run" / "run.json", {**head, "plan": record})
        again = as_begun(loaded, tmp_path / "run")
        resumed = make.make(again, hardware.detect(), output=tmp_path / "run")
        asked = [{"role": "user", "content": "Go?"}]
        text = resumed.tokenizer.apply_chat_template(
            asked, tokenize=False, add_generation_prompt=True
        )
        assert text.endswith("<think>\n\n</think>\n\n")
        assert history.identity(saved, resumed.identity()) == resumed.identity()
        assert content.content_sha256(again) == content.content_sha256(loaded)
        record = resumed.as_dict()
    # One that sent the template's own prompt goes on to.
    record["data"]["earlier_turns"] = True
    record["values"]["model.chat_arguments"] = {"value": None, "origin": "default"}
    disk.write_json(tmp_path / "run" / "run.json", {**head, "plan": record})
    again = as_begun(loaded, tmp_path / "run")
    assert again.recipe.model.chat_arguments == {}
    resumed = make.make(again, hardware.detect(), output=tmp_path / "run")
    saved["model.chat_arguments"] = None
    assert history.identity(saved, resumed.identity()) == resumed.identity()


def test_tools_and_calls_stay_what_they_were(make_recipe: Make, tmp_path: Path) -> None:
    """Bare schemas, calls in a text, and a call that has no result."""
    call = {"type": "function", "function": {"name": "tide", "arguments": {}}}
    asked, answered = {"role": "user", "content": "Due?"}, {"role": "assistant", "content": "Now."}
    written = '<tool_call>\n{"name": "tide", "arguments": {}}\n</tool_call>'
    tools = [{"name": "tide", "parameters": {"type": "object", "properties": {}}}]
    turns = [{**answered, "content": "", "tool_calls": [call]}, {**answered, "content": written}]
    rows = [
        {"messages": [asked, turns[0], asked, answered], "tools": tools},
        {"messages": [asked, turns[1]], "tools": tools},
    ]
    keys = {"template": "auto", "eval": 0}
    recipe = make_recipe(data_rows=rows, data=keys, model={"chat_template": "qwen3"})
    loaded = load.load(recipe, (), "sft")
    with pytest.raises(DataError, match="follows a call that has no result"):
        planned(recipe, tmp_path, "sft")
    then = replace(loaded, earlier_turns=True)
    old = make.make(then, hardware.detect(), output=tmp_path / "run")
    record = old.as_dict()
    record["data"].pop("earlier_turns")
    head = {"format": 1, "tuner": "0.1.0", "status": "interrupted"}
    for _ in range(2):
        (tmp_path / "run").mkdir(exist_ok=True)
        disk.write_json(tmp_path / "run" / "run.json", {**head, "plan": record})
        resumed = make.make(as_begun(loaded, tmp_path / "run"), hardware.detect(), output=tmp_path)
        assert resumed.prepared.train == old.prepared.train
        assert history.identity(old.identity(), resumed.identity()) == resumed.identity()
        texts = [resumed.tokenizer.decode(row.input_ids) for row in resumed.prepared.train]
        assert all('\n{"name": "tide", "parameters"' in text for text in texts)
        record = resumed.as_dict()
