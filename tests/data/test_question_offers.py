"""Questions with several answers, and conversations with what they rest on: each offer is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.test_labelled_files import asked, prepare
from tests.data.test_read import write_rows
from tests.tokenizers import make_tokenizer
from tests.tools.sets_table import lines_of
from tuner.data.advice import COMPARISONS
from tuner.data.look import look
from tuner.errors import DataError
from tuner.schema import strict_yaml

COUNT = 12


def offered(folder: Path, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    write_rows(folder / "r.jsonl", rows)
    with pytest.raises(DataError) as caught:
        prepare(folder, train="r.jsonl")
    return [strict_yaml.parse(line)[0] for line in lines_of(caught.value.fix)], caught.value.fix


def test_several_answers_are_read_row_by_row_or_by_the_first(tmp_path: Path) -> None:
    """They come before an order of them, which nothing shows."""
    rows = [
        {"问题": f"第{n}号船在哪？", "答案": [f"在{n}号。", f"{n}号码头。"]} for n in range(COUNT)
    ]
    (each, first, *_), fix = offered(tmp_path, rows)
    assert asked(prepare(tmp_path, **each))[:2] == [
        ("第0号船在哪？", "在0号。"),
        ("第0号船在哪？", "0号码头。"),
    ]
    assert len(prepare(tmp_path, **each).train) == 2 * COUNT
    assert [answer for _, answer in asked(prepare(tmp_path, **first))][:2] == ["在0号。", "在1号。"]
    assert fix.index("a row for each of the answers") < fix.index(COMPARISONS)
    # As the offers are read, no answer of the others is lost unsaid.
    assert "the first of the answers of each row:" in fix


def test_lists_of_one_answer_compare_nothing(tmp_path: Path) -> None:
    rows = [{"question": f"Where is ship {n}?", "answers": [f"At quay {n}."]} for n in range(COUNT)]
    (first, *_), fix = offered(tmp_path, rows)
    assert COMPARISONS not in fix
    assert asked(prepare(tmp_path, **first))[1] == ("Where is ship 1?", "At quay 1.")


@pytest.mark.parametrize("listed", [True, False])
def test_what_conversations_rest_on_may_be_their_system_turn(tmp_path: Path, listed: bool) -> None:
    """A column that the first turn repeats is no part of the task that would be lost."""
    rows = []
    for n in range(COUNT):
        laws = [f"Article {n}: ships pay.", f"Article {n + 1}: boats do not."]
        turns = [("user", f"Who pays for ship {n}?"), ("assistant", f"Its owner, by {n}.")]
        said = [{"role": role, "content": text} for role, text in turns]
        more = {"laws": laws if listed else "\n\n".join(laws)}
        rows.append({"query": turns[0][1], "messages": said, **more})
    (before, out), fix = offered(tmp_path, rows)
    assert "'query'" not in fix
    tokenizer = make_tokenizer("chatml")
    found = tokenizer.decode(prepare(tmp_path, **before).train[0].input_ids)
    assert "system\nArticle 0: ships pay.\n\nArticle 1: boats do not.<|im_end|>" in found
    assert "Article" not in tokenizer.decode(prepare(tmp_path, **out).train[0].input_ids)
    assert look(Path("r.jsonl"), tmp_path).ways[0].columns["system"] == "laws"


def test_a_system_turn_of_anything_else_is_a_bad_row(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Go?"}, {"role": "assistant", "content": "Yes."}]
    write_rows(tmp_path / "r.jsonl", [{"messages": turns, "rules": [{"a": 1}]}] * 2)
    with pytest.raises(DataError, match="none of the 2 rows") as caught:
        prepare(tmp_path, train="r.jsonl", template="chat", columns={"system": "rules"})
    assert "'rules' is not text but a list" in str(caught.value)
