"""Values that are no texts: what a template prints of them, what it refuses, and languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.test_templates import dialogue
from tuner.data.bad_rows import BadRow
from tuner.data.columns.evidence import Evidence
from tuner.data.columns.template_match import choose
from tuner.data.fields.language import language_of
from tuner.data.fields.values import written
from tuner.data.reading.read import Row
from tuner.data.rows.dialogue import RowRenderer
from tuner.recipe.schema import DataSection


def said(name: str, row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in dialogue(name, row).messages]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (0.5, "0.5"),
        (None, ""),
        ([], ""),
        (["moss", 3, True], "moss\n3\nyes"),
        ([["ship", "tons"], ["Petrel", 90]], "ship | tons\nPetrel | 90"),
        ([{"ship": "Petrel", "tons": 90}], "ship | tons\nPetrel | 90"),
        ([{"ship": "Petrel"}, {"tons": 90}], '[{"ship": "Petrel"}, {"tons": 90}]'),
        ({"rows": [["Petrel"]], "header": ["ship"], "id": 4}, "ship\nPetrel"),
        ({"rows": [["Petrel"]], "header": ["ship"], "title": "Fleet"}, None),
        ({"船": ["海燕"]}, '{"船": ["海燕"]}'),
    ],
)
def test_every_value_has_one_text(value: Any, text: str | None) -> None:
    """Nothing that a table says is left out: with a title it is JSON."""
    if text is None:
        text = '{"rows": [["Petrel"]], "header": ["ship"], "title": "Fleet"}'
    assert written(value) == text


def test_true_and_false_are_words_of_the_rows_language() -> None:
    assert said("prompt_completion", {"question": "Is tin a metal?", "answer": True})[1] == "yes"
    assert said("prompt_completion", {"question": "铝是金属吗？", "answer": True})[1] == "是"
    assert said("qa_zh", {"问题": "木头会沉吗？", "回答": False})[1] == "否"
    row = {"context": "It is shut.", "question": "May one enter?", "answer": False}
    assert said("qa_with_context", row)[1] == "no"


def test_numbers_are_answers_and_parts_of_prompts() -> None:
    assert said("prompt_completion", {"question": "How many legs?", "answer": 8})[1] == "8"
    row = {"instruction": "Double the number.", "input": 0, "output": 0}
    assert said("instruction", row) == ["Double the number.\n\n0", "0"]


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("prompt_completion", {"prompt": "p", "completion": ["x", "y"]}, "is not text but a list"),
        ("prompt_completion", {"prompt": ["p"], "completion": "x"}, "is not text but a list"),
        ("instruction", {"instruction": True, "output": "x"}, "is not text but true"),
        ("text", {"text": 5}, "is not text but a number"),
        ("yes_no", {"question": "q", "answer": "perhaps"}, "is neither yes nor no: perhaps"),
        (
            "tool_calls",
            {"query": "q", "tools": [{"name": "f"}], "calls": "no JSON"},
            "are not JSON",
        ),
        (
            "tool_calls",
            {"query": "q", "tools": [{"name": "f"}], "calls": [3]},
            "are not a list of objects",
        ),
    ],
)
def test_what_a_template_cannot_read_is_named(name: str, row: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRow, match=why):
        dialogue(name, row)


@pytest.mark.parametrize(
    ("name", "row", "prompt"),
    [
        ("instruction", {"instruction": "", "input": "Name a fish.", "output": "Pike"}, None),
        ("instruction", {"instruction": None, "input": "Name a fish.", "output": "Pike"}, None),
        ("instruction_zh", {"指令": "", "输入": "Name a fish.", "输出": "Pike"}, None),
        (
            "qa_with_context",
            {"context": " ", "question": "Name a fish.", "answer": "Pike"},
            "Name a fish.",
        ),
    ],
)
def test_an_empty_part_of_a_prompt_is_left_out(
    name: str, row: dict[str, Any], prompt: str | None
) -> None:
    assert said(name, row) == [prompt or "Name a fish.", "Pike"]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(BadRow, match="the prompt is empty \\(input and instruction\\)"):
        dialogue("instruction", {"instruction": "", "input": " ", "output": "x"})
    with pytest.raises(BadRow, match="the column 'question' is empty"):
        dialogue("qa_with_context", {"context": "c", "question": "", "answer": "x"})


OWN = """name: own
description: a table and a flag
columns:
  required: [table, flag, answer]
turns:
  - role: user
    content: |-
      {% for line in table %}{{ line.ship }}: {{ line.tons + 1 }}
      {% endfor %}{{ flag }}
      {{ table }}
  - {role: assistant, content: "{{ answer | tojson }}"}
"""


def test_a_template_of_ones_own_gets_values_as_they_are(tmp_path: Path) -> None:
    """And can write them as JSON, in which nothing is escaped for web pages."""
    (tmp_path / "own.yaml").write_text(OWN, "utf-8")
    table = [{"ship": "Petrel", "tons": 90}]
    row = {"table": table, "flag": True, "answer": {"a<b": "海 & 'x'"}}
    data = DataSection(train=("x",), template="own.yaml")
    fit = choose(data, row, tmp_path, evidence=Evidence([row]))
    found = RowRenderer(fit).render(Row(Path("x"), 1, row))
    asked, answer = (message["content"] for message in found.messages)
    assert asked == "Petrel: 91\nyes\nship | tons\nPetrel | 90"
    assert answer == '{"a<b": "海 & \'x\'"}'
    with pytest.raises(BadRow, match="cannot render the row"):
        RowRenderer(fit).render(Row(Path("x"), 1, {**row, "table": [{"ship": "Petrel"}]}))


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["Which of these is a bird?"], "en"),
        (["哪一种是鸟？"], "zh"),
        (["把这段 Python 代码改成 async 的写法"], "zh"),
        (["Translate 早上好 into English, please."], "en"),
        (["どの木が一番高いですか。山の上にあります。"], None),
        (["Где находится библиотека?"], None),
        (["Der Fluss trat " + "im Winter weit über seine Ufer und die Felder " * 4], None),
        (["12.5", "7"], None),
        ([{"a": ["Which of these?"]}, None, 3], "en"),
    ],
)
def test_the_language_is_seen_from_the_text(texts: list[Any], language: str | None) -> None:
    assert language_of(texts) == language
