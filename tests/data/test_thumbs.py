"""Answers that a reader disliked are never learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tokenizers import make_tokenizer
from tuner.data.columns.ways import Unsure
from tuner.data.prompts import PromptData
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError
from tuner.recipe.schema import DataSection


def section(folder: Path, rows: Sequence[Any], **keys: Any) -> DataSection:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, "utf-8")
    return DataSection(**({"train": ["rows.jsonl"], "eval": 0, "disliked": "drop"} | keys))


def prepared(folder: Path, rows: Sequence[Any], **keys: Any) -> Prepared:
    data = section(folder, rows, **keys)
    return SftData(Inputs(data, make_tokenizer("chatml"), folder, 7, 512)).prepare()


def pair(answer: str, **thumb: Any) -> dict[str, Any]:
    return {"prompt": "Is it so?", "completion": answer, **thumb}


def turns(answer: str, **thumb: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": "Is it so?"}
    return {"messages": [asked, {"role": "assistant", "content": answer}], **thumb}


@pytest.mark.parametrize("row", [pair, turns])
def test_answers_labelled_bad_are_refused_until_the_recipe_says_what_becomes_of_them(
    tmp_path: Path, row: Any
) -> None:
    """Each way that the error names works as it is printed."""
    rows = [row(f"answer {n}", label=n != 2) for n in range(4)]
    with pytest.raises(DataError, match="1 of 4 rows have an answer that is labelled bad") as error:
        prepared(tmp_path, rows, disliked="error")
    assert "column label, e.g. rows.jsonl:3" in error.value.why
    ways = [line.split("#")[0].strip() for line in error.value.fix.splitlines()[1:]]
    assert ways == ["data.disliked: drop", "data.disliked: learn"]
    kept = [
        prepared(tmp_path, rows, disliked=way.partition(": ")[2]).report["rows_train"]
        for way in ways
    ]
    assert kept == [3, 4]
    assert prepared(tmp_path, rows[:2], disliked="error").report["rows_train"] == 2


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [
        ("label", True, False),
        ("label", 1, 0),
        ("label", "True", "False"),
        ("kto_tag", True, False),
        ("rating", "up", "down"),
        ("Rating", 1, -1),
        ("rating", "\U0001f44d", "\U0001f44e"),
        ("feedback", "thumbs_up", "thumbs_down"),
        ("liked", 1.0, 0.0),
        ("Is Liked", "yes", "no"),
        ("feedback", "helpful", "unhelpful"),
        ("评价", "满意", "不满意"),
        ("标签", 1, 0),
        ("is_bad", False, True),
        ("Disliked", 0, 1),
        ("thumbs_down", "no", "yes"),
    ],
)
@pytest.mark.parametrize("row", [pair, turns])
def test_disliked_answers_are_left_out_and_counted(
    tmp_path: Path, row: Any, name: str, up: Any, down: Any
) -> None:
    rows = [row("yes", **{name: up}), row("no", **{name: down}), row("perhaps", **{name: None})]
    result = prepared(tmp_path, rows)
    assert [example.row for example in result.train] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert (result.report["rows_in"], result.report["thumbs_down_rows"]) == (3, 1)
    assert any("1 row with a thumbs-down left out" in text for text in result.report["warnings"])


def test_held_out_rows_are_liked_ones_too(tmp_path: Path) -> None:
    rows = [pair(f"answer {n}", label=n % 2 == 0) for n in range(20)]
    result = prepared(tmp_path, rows, eval=4, split="row")
    held = [int(row.example.row.partition(":")[2]) for row in result.eval]
    assert len(held) == 4
    assert all(line % 2 for line in held)
    (tmp_path / "held.jsonl").write_text(json.dumps(pair("other", label=False)) + "\n", "utf-8")
    with pytest.raises(DataError, match="the eval split is empty"):
        prepared(tmp_path, rows, eval="held.jsonl", split="row")


def test_nothing_but_disliked_answers_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the train split is empty") as caught:
        prepared(tmp_path, [pair("no", label=False)] * 3)
    assert "3 rows, all thumbs-down (column label)" in caught.value.why
    assert "tuner reward" in caught.value.fix


@pytest.mark.parametrize(
    "thumbs",
    [
        [{"rating": 5}, {"rating": 1}],
        [{"label": "positive"}, {"label": "negative"}],
        [{"label": True}, {"label": "maybe"}],
        [{"correct": True}, {"correct": False}],
        [{"is_toxic": False}, {"is_toxic": True}],
        [{"标签": "好"}, {"标签": "差"}],
    ],
)
def test_other_columns_are_no_thumbs(tmp_path: Path, thumbs: list[dict[str, Any]]) -> None:
    """Stars, classes and columns of other names: all rows are learned without them."""
    rows = [pair(f"answer {n}", **thumb) for n, thumb in enumerate(thumbs)]
    report = prepared(tmp_path, rows, columns=dict.fromkeys(thumbs[0], "none")).report
    assert (report["rows_train"], report["thumbs_down_rows"]) == (2, 0)
    assert report["ignored_columns"] == list(thumbs[0])


@pytest.mark.parametrize("values", [(1, 4, 3), ("1", "4", "3.0")])
def test_answers_with_scores_are_refused_until_the_recipe_says_what_becomes_of_them(
    tmp_path: Path, values: Sequence[Any]
) -> None:
    """Each way that the error names works as it is printed; a score that never differs is none."""
    rows = [pair(f"answer {n}", helpfulness=each, id=n) for n, each in enumerate(values)]
    with pytest.raises(DataError, match="the answers have scores") as caught:
        prepared(tmp_path, rows, disliked="error")
    assert "helpfulness (1 to 4)" in caught.value.why
    assert isinstance(caught.value, Unsure)
    assert caught.value.ways[0].columns == {"helpfulness": "none"}
    some, every = (
        yaml.safe_load(line) for line in caught.value.fix.splitlines() if "data: {" in line
    )
    good = prepared(tmp_path, rows, **{"eval": 0, "train": [some["data"]["train"]]})
    assert [row.row for row in good.train] == ["rows.jsonl:2", "rows.jsonl:3"]
    assert prepared(tmp_path, rows, columns=every["data"]["columns"]).report["rows_train"] == 3
    same = [{**row, "helpfulness": 4} for row in rows]
    assert prepared(tmp_path, same).report["rows_train"] == 3


def test_the_preview_says_what_is_left_out(tmp_path: Path) -> None:
    """Also if the first rows are all disliked: as many rows are read as by the plan."""
    data = section(tmp_path, [pair("no", label=False), pair("yes", label=True)])
    data = data.model_copy(update={"eval": 0})
    made, shown = SftData(Inputs(data, make_tokenizer("chatml"), tmp_path, 1, 512)).preview(1)
    assert [row.row for row in shown] == ["rows.jsonl:2"]
    assert made.report["warnings"] == [
        "1 row with a thumbs-down left out: disliked answers are not trained on"
    ]


def test_a_disliked_answer_is_no_reference_of_a_prompt(tmp_path: Path) -> None:
    """A rule that compares with the reference would reward it."""
    data = section(tmp_path, [pair("yes", label=True), {**pair("no", label=False), "prompt": "?"}])
    found = PromptData(Inputs(data, make_tokenizer("chatml"), tmp_path, 1, 512), 16).prepare()
    assert [prompt.reference for prompt in found.train] == ["yes", ""]


def test_a_recipe_that_leaves_the_thumbs_out_learns_all_rows(tmp_path: Path) -> None:
    rows = [pair(f"answer {n}", label=n != 2) for n in range(4)]
    result = prepared(tmp_path, rows, disliked="error", columns={"label": "none"})
    assert result.report["rows_train"] == 4


def test_a_run_that_goes_on_knows_the_thumbs_by_which_it_began(tmp_path: Path) -> None:
    """One that began before `is_bad` counted learned all rows."""
    data = section(tmp_path, [pair(f"answer {n}", is_bad=n == 2) for n in range(4)])
    began = (("prompt_completion", {"prompt": "prompt", "completion": "completion"}),)
    for disliked, formats, left in (("error", began, 4), ("drop", began, 3), ("drop", (), 3)):
        keys = data.model_copy(update={"disliked": disliked})
        inputs = Inputs(keys, make_tokenizer("chatml"), tmp_path, 7, 512, formats=formats)
        assert SftData(inputs).prepare().report["rows_train"] == left
