"""Preference files whose columns no format knows: what is offered is pasted, and then read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_preferences import prepared
from tests.data.test_read import write_rows
from tests.tokenizers import make_tokenizer
from tuner.data.columns.ways import Line
from tuner.data.look import look
from tuner.data.preferences import PreferenceData, Ranking
from tuner.data.tokens.prepared import Inputs
from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.schema import strict_yaml

ASKED, GOOD, BAD = "How deep is harbour {n}?", "Nine metres at low water, {n}.", "Deep, {n}."
TURN = {"role": "user", "content": ASKED}
FILES: dict[str, dict[str, Any]] = {
    "good and bad": {"user_question": ASKED, "good_answer": GOOD, "bad_answer": BAD},
    "chosen in other words": {"q": ASKED, "chosenAnswer": GOOD, "rejectedAnswer": BAD},
    "chinese": {"提问": ASKED, "好的回答": GOOD, "差的回答": BAD},
    "chinese with not": {"用户输入": ASKED, "好的回答": GOOD, "不好的回答": BAD},
    "models": {
        **{"question": ASKED, "model_a_answer": GOOD, "model_b_answer": BAD},
        "which": ("A", "B"),
    },
    "pairs": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
}


def rows_of(row: dict[str, Any], count: int = 24) -> list[dict[str, Any]]:
    """Rows from one: {n} is the row's number, and a tuple has a value for each row."""

    def value(each: Any, n: int) -> Any:
        if isinstance(each, tuple):
            return value(each[n % len(each)], n)
        if isinstance(each, list):
            return [value(item, n) for item in each]
        if isinstance(each, dict):
            return {name: value(item, n) for name, item in each.items()}
        return each.replace("{n}", str(n)) if isinstance(each, str) else each

    return [{name: value(each, n) for name, each in row.items()} for n in range(count)]


def pasted(folder: Path, row: dict[str, Any]) -> list[Ranking]:
    """Prepare comparisons, and do once what an error says first."""
    with pytest.raises(DataError) as caught:
        prepared(folder, rows_of(row))
    found = re.search(r"data\.columns: (\{.*?\})", caught.value.fix)
    assert found, caught.value
    return prepared(folder, rows_of(row), columns=strict_yaml.parse(found[1])[0]).train


def texts(rankings: Sequence[Ranking]) -> set[tuple[str, str]]:
    """The better and the worse answer of each pair."""
    return {(r.texts[good], r.texts[bad]) for r in rankings for good, bad, _ in r.pairs}


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "pairs"])
def test_the_offer_for_columns_of_other_names_reads_the_pairs(tmp_path: Path, kind: str) -> None:
    found = pasted(tmp_path, FILES[kind])
    assert len(found) == 24
    assert ("Nine metres at low water, 0.", "Deep, 0.") in texts(found)
    assert all(each.prompt_text.startswith("How deep") for each in found)
    # The models' winners take turns.
    assert (("Deep, 1.", "Nine metres at low water, 1.") in texts(found)) == (kind == "models")


THUMBED = {"date": "2026-01-02", "user_question": ASKED, "bot_answer": (GOOD, BAD)}
THUMBED |= {"feedback": ("\U0001f44d", "\U0001f44e")}


def test_the_offer_for_thumbs_reads_the_answers_and_whether_they_are_liked(tmp_path: Path) -> None:
    """Both answers to one question make a pair."""
    row = THUMBED | {"user_question": "How deep is the harbour?"}
    found = texts(pasted(tmp_path, row))
    assert ("Nine metres at low water, 0.", "Deep, 1.") in found
    assert all(good.startswith("Nine") and bad.startswith("Deep") for good, bad in found)


SAID = [TURN, {"role": "assistant", "content": GOOD}]
BINARIZED = {
    **{"prompt": ASKED, "prompt_id": "0{n}", "chosen": SAID},
    "rejected": [TURN, {"role": "assistant", "content": BAD}],
}
MORE = {
    "another conversation": {"messages": [TURN, {"role": "assistant", "content": "Nine, {n}."}]},
    "the answer in a text": {"reference": "The right one: " + GOOD},
}


@pytest.mark.parametrize("kind", MORE)
def test_what_holds_an_answer_is_never_offered_for_the_prompt(tmp_path: Path, kind: str) -> None:
    row = BINARIZED if kind == "another conversation" else FILES["pairs"]
    found = pasted(tmp_path, row | MORE[kind])
    assert texts(found) >= {("Nine metres at low water, 0.", "Deep, 0.")}
    assert {len(each.messages) for each in found} == {1}
    assert "Nine" not in str([each.messages for each in found])


@pytest.mark.parametrize("kind", ["binarized", "chinese", "thumbs"])
def test_supervised_training_offers_comparisons_first_with_all_that_they_need(
    tmp_path: Path, kind: str
) -> None:
    """Both lines make a plan of DPO; `--write` takes the data's for a reward model."""
    rows = {"binarized": BINARIZED | MORE["another conversation"], "thumbs": THUMBED}
    write_rows(tmp_path / "p.jsonl", rows_of(rows.get(kind, FILES["chinese"])))
    found = look(tmp_path / "p.jsonl", tmp_path)
    assert found.error is not None
    lines = [line.strip() for line in found.error.fix.splitlines()]
    first = next(n for n, line in enumerate(lines) if line.startswith("data: {"))
    recipe = {}
    for line in lines[first : first + 2]:
        recipe |= strict_yaml.parse(line)[0]
    assert recipe["rlhf"] == {"algorithm": "dpo"}
    section = DataSection.model_validate({"eval": 0} | recipe["data"])
    tokenizer = make_tokenizer("chatml")
    data = PreferenceData(Inputs(section, tokenizer, tmp_path, 7, 512), apart=True, alone=True)
    assert len(data.prepare().train) == 24
    way = found.choices({"train": "p.jsonl"})[0]
    assert isinstance(way, Line)
    assert way.compares
    assert way.recipe == lines[first]
