"""Rows are held out by prompt, and by label where they have one."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers import make_tokenizer
from tuner.data.sft import SftData
from tuner.data.split import shares
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError
from tuner.recipe.schema import DataSection


def prepared(folder: Path, rows: Sequence[Any], seed: int = 7, **keys: Any) -> Prepared:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    held = keys.pop("held", None)
    if held is not None:
        keys["eval"] = "held.jsonl"
        (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held), "utf-8")
    head = keys.pop("head", "language")
    data = DataSection(**{"train": ["rows.jsonl"], "eval": 0.2, **keys})
    return SftData(Inputs(data, make_tokenizer("chatml"), folder, seed, 512), head).prepare()


def lines(examples: Sequence[Any]) -> set[int]:
    return {int(each.row.partition(":")[2]) - 1 for each in examples}


def sides(result: Prepared) -> tuple[set[int], set[int]]:
    return lines(result.train), lines([row.example for row in result.eval])


@pytest.mark.parametrize("seed", range(2))
def test_a_prompt_with_many_answers_is_on_one_side(tmp_path: Path, seed: int) -> None:
    """D11: white space and case make no other prompt."""
    asked = ["Write a line about {}.", "Write  a line about {}.\n", "write a line\tabout {} ."]
    things = ["iron", "铁 块", "ice", "salt", "cork", "oil"]
    rows = [
        {"prompt": asked[n // 6 % 3].format(thing), "completion": f"{thing} {n}"}
        for n, thing in enumerate(things * 5)
    ]
    train, held = sides(prepared(tmp_path, rows, seed, eval=10))
    assert len(held) == 10
    assert not {n % 6 for n in train} & {n % 6 for n in held}
    train, held = sides(prepared(tmp_path, rows, seed, eval=10, split="row"))
    assert {n % 6 for n in train} & {n % 6 for n in held}


def test_one_prompt_cannot_be_held_out_and_trained(tmp_path: Path) -> None:
    rows = [{"prompt": "Write.", "completion": f"A{n}"} for n in range(9)]
    with pytest.raises(DataError, match="eval split is empty") as caught:
        prepared(tmp_path, rows, eval=3)
    assert "the 9 rows have 1 prompt, too few to hold out 3 rows" in caught.value.why
    assert "data.split: row" in caught.value.fix
    assert len(prepared(tmp_path, rows, eval=3, split="row").eval) == 3


def test_a_chat_that_goes_on_is_on_the_side_of_its_beginning(tmp_path: Path) -> None:
    """Its first answers are answers to prompts, too; chats that merely begin alike are apart."""

    def chat(*turns: str) -> dict[str, Any]:
        roles = ["user", "assistant"] * len(turns)
        return {"messages": [{"role": r, "content": c} for r, c in zip(roles, turns, strict=False)]}

    rows = [chat(f"Q{n}", "A") for n in range(8)]
    rows += [chat(f"q{n} ", "Other", "And then?", f"B{n}") for n in range(8)]
    rows += [chat("Hello", "Hi", f"Ask {n}", f"C{n}") for n in range(8)]
    train, held = sides(prepared(tmp_path, rows, eval=8))
    assert held
    assert not {n % 8 for n in train if n < 16} & {n % 8 for n in held if n < 16}
    assert {n for n in train if n >= 16}
    held_rows = [chat("q1", "What?"), chat("Q2", "x", "And?", "y"), chat("New", "z")]
    result = prepared(tmp_path, rows, held=held_rows)
    assert sides(result)[1] == {2}
    assert result.report["eval_rows_also_in_train"] == 2
    assert "left out of the eval split because their prompts are in train: 2 rows" in " ".join(
        result.report["warnings"]
    )


def test_distinct_rows_are_held_out_as_by_row(tmp_path: Path) -> None:
    """By prompt, rows whose prompts are all different take their turn as ever."""
    rows = [{"prompt": f"Ask {n}", "completion": f"Say {n}"} for n in range(30)]
    assert sides(prepared(tmp_path, rows)) == sides(prepared(tmp_path, rows, split="row"))


def test_the_choice_does_not_depend_on_the_order(tmp_path: Path) -> None:
    rows = [{"text": f"Text {n}", "label": "abc"[n % 3]} for n in range(30)]
    mixed = random.Random(1).sample(rows, len(rows))
    found = [
        {json.dumps(each[n]) for n in sides(prepared(tmp_path, each))[1]} for each in (rows, mixed)
    ]
    assert found[0] == found[1]
    assert sides(prepared(tmp_path, rows, 7)) != sides(prepared(tmp_path, rows, 8))


LABELS = ["calm"] * 80 + ["angry"] * 15 + ["sad"] * 3 + ["odd"]


@pytest.mark.parametrize("head", ["language", "classes"])
@pytest.mark.parametrize("seed", range(2))
def test_labels_are_on_both_sides(tmp_path: Path, head: str, seed: int) -> None:
    """D11: but for one that has a single row."""
    rows = [{"text": f"Text {n}", "label": label} for n, label in enumerate(LABELS)]
    result = prepared(tmp_path, rows, seed, eval=0.1, head=head)
    assert Counter(LABELS[n] for n in sides(result)[1]) == {"calm": 8, "angry": 1, "sad": 1}
    report = result.report
    assert report["labels_eval"] == {"angry": 1, "calm": 8, "odd": 0, "sad": 1}
    assert report["labels_train"] == {"angry": 14, "calm": 72, "odd": 1, "sad": 2}
    assert "labels that no held-out row has: odd" in report["warnings"]


def test_labels_of_the_recipe_count_too(tmp_path: Path) -> None:
    rows = [{"prompt": f"Is {n} even?", "completion": "no" if n % 9 else "yes"} for n in range(36)]
    for labels, wanted in ((("yes", "no"), {"yes": 1, "no": 5}), ((), None)):
        result = prepared(tmp_path, rows, eval=6, labels=labels)
        assert result.report.get("labels_eval") == wanted


def test_texts_are_no_labels(tmp_path: Path) -> None:
    """As many labels as rows: nothing to stratify by."""
    rows = [{"text": f"Text {n}", "label": f"Said {n}"} for n in range(20)]
    result = prepared(tmp_path, rows, eval=4)
    assert len(result.eval) == 4
    assert "labels_eval" not in result.report


@pytest.mark.parametrize(
    ("counts", "wanted", "found"),
    [
        ({"a": 80, "b": 80}, 60, {"a": 30, "b": 30}),
        ({"a": 90, "b": 9, "c": 1}, 10, {"a": 8, "b": 1, "c": 1}),
        ({"a": 5, "b": 5, "c": 5}, 2, {"a": 1, "b": 1, "c": 0}),
        ({"a": 3, "b": 0}, 3, {"a": 3, "b": 0}),
        ({"a": 3, "b": 2}, 9, {"a": 3, "b": 2}),
        ({}, 4, {}),
    ],
)
def test_shares(counts: dict[str, int], wanted: int, found: dict[str, int]) -> None:
    assert shares(counts, wanted) == found


def test_shares_are_exact_and_fair() -> None:
    numbers = random.Random(2)
    for _ in range(300):
        counts = {name: numbers.randrange(40) for name in "abcdefg"[: numbers.randrange(1, 8)]}
        total = sum(counts.values())
        wanted = numbers.randrange(total + 3)
        found = shares(counts, wanted)
        assert sum(found.values()) == min(wanted, total)
        assert all(0 <= found[name] <= count for name, count in counts.items())
        if wanted >= sum(map(bool, counts.values())):
            assert all(found[name] for name, count in counts.items() if count)
