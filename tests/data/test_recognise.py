"""What a file is taken for, by the names and the contents of its columns, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.test_read import write_rows
from tests.tokenizers import make_tokenizer
from tuner.data.look import Look, look
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

TOOLS = ("saw", "plane", "file", "chisel", "rasp", "gouge", "awl", "drill", "clamp", "vice", "adze")
CHAT = [{"role": "user", "content": "Is it dry?"}, {"role": "assistant", "content": "It is."}]
LINE = re.compile(r"^ +(?:data: |- )(\{.*\})$", re.MULTILINE)


def rows_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each tool; {} is its name and {n} its number, and a list has one value a row."""

    def filled(value: Any, number: int) -> Any:
        if isinstance(value, str):
            return value.replace("{}", TOOLS[number]).replace("{n}", str(number))
        if isinstance(value, tuple):
            return value[number % len(value)]
        if isinstance(value, list):
            return [filled(each, number) for each in value]
        if isinstance(value, dict):
            return {key: filled(each, number) for key, each in value.items()}
        return value

    return [{k: filled(v, n) for k, v in row.items()} for n in range(len(TOOLS))]


def seen(folder: Path, row: dict[str, Any]) -> Look:
    write_rows(folder / "rows.jsonl", rows_of(row))
    return look(Path("rows.jsonl"), folder)


def is_understood(folder: Path, row: dict[str, Any], sentence: str) -> None:
    found = seen(folder, row)
    assert found.error is None, found.error
    assert found.understood.startswith(sentence)


def prepared(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> Prepared:
    write_rows(folder / "rows.jsonl", rows)
    data = DataSection(**({"train": ("rows.jsonl",), "eval": 0} | keys))
    return SftData(Inputs(data, make_tokenizer("chatml"), folder, 7, 4096)).prepare()


ASK = "Which of these would you take to the {} work?"
UNDERSTOOD: dict[str, tuple[dict[str, Any], str]] = {
    "options in columns": (
        {"question": ASK, "A": "a {}", "B": "glue", "C": "salt", "D": "ink", "answer": ("A", "B")},
        "multiple choice: question, 4 options in columns A-D, answer is a letter; English",
    ),
    "options in a list": (
        {"question": ASK, "choices": ["a {}", "glue", "salt"], "answer": (0, 1, 2)},
        "multiple choice: question, 3 options in column choices, answer is an index; English",
    ),
    "options in a mapping": (
        {"question": ASK, "options": {"A": "a {}", "B": "ink"}, "answer_idx": ("A", "B")},
        "multiple choice: question, 2 options in column options, answer is a letter (column "
        "answer_idx); English",
    ),
    "yes or no from a passage": (
        {"passage": "The {} is in the shed.", "question": "Is it in?", "answer": (True, False)},
        "yes or no: question, passage, answer is true or false; English",
    ),
    "a contract": (
        {"contract": "The {} is due in {n} days.", "question": "When is it?", "answer": "In {n}."},
        "questions about a text: context (column contract), question, answer; English",
    ),
    "a passage in Chinese": (
        {"context": "工具{}放在仓库的第{n}个架子上。", "question": "在哪里？", "answer": "第{n}个"},
        "questions: question, context, answer; Chinese",
    ),
    "labels": (
        {"text": "The {} is of no use to me.", "label": ("up", "down", "flat")},
        "classification: text, label is one of 3 labels; English",
    ),
    "labels of other names": (
        {"Clause Text": "The {} is due in {n} days.", "Clause Type": ("Term", "Notice"), "id": 7},
        "classification: text (column Clause Text), label is one of 2 labels (column Clause Type); "
        "English; not used: id",
    ),
    "a summary": (
        {"article": "The {} was sold to the museum in May. " * 9, "highlights": "Sold: {}."},
        "summarisation: document (column article), summary (column highlights); English",
    ),
    "Dolly": (
        {"instruction": "Name {n}.", "context": "", "response": "The {}.", "category": "open_qa"},
        "instructions: instruction, input (column context), output (column response); English; not "
        "used: category",
    ),
    "capitals": (
        {"Question": "What is the {} for?", "Answer": "For work with the {}."},
        "prompts and answers: prompt (column Question), completion (column Answer); English",
    ),
    "calls as answers": (
        {
            **{"query": "Where is the {}?", "tools": [{"name": "find", "parameters": {"x": 1}}]},
            "answers": [{"name": "find", "arguments": {"x": "{}"}}],
        },
        "tool calls: query, tools is a list of mappings, calls is a list of mappings (column "
        "answers); English",
    ),
    "reasoning in a column": (
        {
            "question": "Is the {} dry?",
            "reasoning": "The {} hung by a fire.",
            "answer": "Yes, {n}.",
        },
        "questions with reasoning: question, rationale (column reasoning), answer; English",
    ),
    "one text": (
        {"content": "The {} is in the shed."},
        "plain text: text (column content); English",
    ),
    "a conversation": ({"dialog": CHAT, "id": 3}, "conversations: messages (column dialog)"),
    "a system column": (
        {"system_prompt": "Be brief about the {}.", "messages": CHAT},
        "conversations: messages, system (column system_prompt); English",
    ),
    "bookkeeping": (
        {
            **{"prompt": "What is the {} for?", "completion": "For work with the {}."},
            **{"id": 1, "url": "https://example.org/{n}", "created_at": "2024-05-{n}"},
            **{
                "source": "manual",
                "split": "train",
                "num_tokens": 7,
                "sha256": "9f86d081884c7d6{n}",
            },
            **{"score": 0.5, "meta": {"page": 3}},
        },
        "prompts and answers: prompt, completion; English; not used: ",
    ),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_it_is_said_what_was_understood(tmp_path: Path, name: str) -> None:
    is_understood(tmp_path, *UNDERSTOOD[name])


def test_the_names_of_columns_count_in_any_case_and_with_any_separator(tmp_path: Path) -> None:
    for names in (("Conversation History", "QUERY"), ("conversation-history", "Query")):
        row = {names[1]: "And the {}?", names[0]: [["Is it dry?", "Yes."]], "Response": "It is."}
        found = seen(tmp_path, row)
        assert found.ways[0].columns["history"] == names[0]


# What is lost without a word in other columns, and a name and content that reads it.
DROPPED: dict[str, dict[str, Any]] = {
    "hints": {"prompt": "Where is the {}?", "completion": "In shed {n}.", "hints": "It is cold."},
    "laws": {"query": "{}归谁？", "response": "归买方{n}。", "laws_cited": ["第{n}条：归买方。"]},
    "options": {"prompt": "Where is the {}?", "completion": "Shed {n}.", "options": "in or out"},
    "a label's name": {
        "sentence": "The {} is late.",
        "label": ("l", "r"),
        "label_desc": ("late", "red"),
    },
    "notes": {"instruction": "Find {}.", "output": "Done {n}.", "notes": "By eye, and {n}."},
    "turns and more": {"messages": CHAT, "evidence": "The {} is dry."},
    "pictures": {"messages": CHAT, "images": ["{}.png"]},
    "a source that is a text": {
        **{"question": "Where is the {}?", "answer": "In shed {n}."},
        "source": "The {} was put into shed {n} by the carpenter, who came at noon. " * 3,
    },
}


@pytest.mark.parametrize("name", DROPPED)
def test_a_column_of_the_task_is_never_dropped_in_silence(tmp_path: Path, name: str) -> None:
    """Each recipe of the error works as printed, and reads or leaves out every column."""
    rows = rows_of(DROPPED[name])
    with pytest.raises(DataError, match="part of the task, and would not be used") as caught:
        prepared(tmp_path, rows)
    assert "as earlier versions did with a warning:" in caught.value.fix
    lines = LINE.findall(caught.value.fix)
    assert len(lines) > (name not in ("turns and more", "pictures"))
    for line in lines:
        keys = yaml.safe_load(line)
        assert keys.pop("train") == "rows.jsonl"
        result = prepared(tmp_path, rows, **keys)
        accounted = {*keys.get("columns", {}), *keys.get("columns", {}).values()}
        used = {name for file in result.report["files"] for name in file["columns"]}
        assert {*rows[0]} <= accounted | used
        assert result.report["unread_columns"] == []


def test_a_recipe_that_names_its_template_is_only_warned(tmp_path: Path) -> None:
    """Recipes that trained before still do."""
    rows = rows_of(DROPPED["hints"])
    result = prepared(tmp_path, rows, template="prompt_completion")
    said = "columns not used, though they look like part of the task: hints"
    assert said in result.report["warnings"]
    assert result.report["understood"].endswith("; not used: hints")


def test_columns_can_be_left_out_that_no_template_knows(tmp_path: Path) -> None:
    rows = rows_of(DROPPED["laws"])
    result = prepared(tmp_path, rows, columns={"laws_cited": "none"})
    assert result.report["unread_columns"] == []
    with pytest.raises(Exception, match="no template column is called 'laws_cite'"):
        prepared(tmp_path, rows, columns={"laws_cite": "none"})


def test_comparisons_of_answers_are_not_for_supervised_training(tmp_path: Path) -> None:
    row = {"prompt": "Where is the {}?", "chosen": "In shed {n}.", "rejected": "No idea, {n}."}
    found = seen(tmp_path, row)
    assert "tuner reward" in str(found.error)


def test_lists_where_a_text_must_be_are_offered_by_their_place(tmp_path: Path) -> None:
    found = seen(tmp_path, {"question": "Name a use of the {}.", "answer": ["in a shed", "{n}"]})
    assert found.error is not None
    columns = [way.columns["completion"] for way in found.ways[:2]]
    assert columns == ["answer.*", "answer.0"]
    inside = seen(tmp_path, {"table": [["a", "{n}"]], "questions": [{"q": "a {}?", "a": "{n}"}]})
    assert inside.ways[0].template.name == "table_qa"
    assert inside.ways[0].columns == {"question": "questions.*.q", "answer": "questions.*.a"}


def test_rows_of_two_kinds_in_a_file_are_told_apart(tmp_path: Path) -> None:
    rows = [{"instruction": "Go.", "output": "Gone."}, {"messages": CHAT}]
    with pytest.raises(DataError, match="the rows of one file have different formats"):
        prepared(tmp_path, rows)


def test_each_file_is_recognised_by_itself(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl", rows_of({"instruction": "Find {}.", "response": "Done {n}."}))
    write_rows(tmp_path / "e.jsonl", rows_of({"Question": "Where is {}?", "Answer": "In {n}."}))
    rows = rows_of({"messages": CHAT, "note": "{n}"})
    keys = {"train": ("rows.jsonl", "b.jsonl"), "eval": "e.jsonl"}
    result = prepared(tmp_path, rows, **keys)
    names = [file["template"] for file in result.report["files"]]
    assert names == ["chat", "instruction", "prompt_completion"]
    assert result.report["understood"].count("jsonl: ") == 3


def test_the_column_that_is_in_question_names_its_source(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl", rows_of(DROPPED["hints"]))
    with pytest.raises(DataError, match=r"b\.jsonl: column 'hints'") as caught:
        prepared(tmp_path, [{"messages": CHAT}] * 3, train=("rows.jsonl", "b.jsonl"))
    lines = [yaml.safe_load(line) for line in LINE.findall(caught.value.fix)]
    assert lines
    for line in lines:
        assert line["source"] == "b.jsonl"
        again = prepared(tmp_path, [{"messages": CHAT}] * 3, train=("rows.jsonl", line))
        assert len(again.train) == 3 + len(TOOLS)


def test_a_few_odd_values_do_not_hide_what_a_column_is(tmp_path: Path) -> None:
    rows = rows_of(UNDERSTOOD["yes or no from a passage"][0]) * 3
    rows[5] = {**rows[5], "answer": "it depends on the day"}
    write_rows(tmp_path / "rows.jsonl", rows)
    assert look(Path("rows.jsonl"), tmp_path).understood.startswith("yes or no: ")
    plain = rows_of(UNDERSTOOD["capitals"][0])
    plain[4] = {**plain[4], "Answer": ["In", "shed"]}
    write_rows(tmp_path / "rows.jsonl", plain)
    assert look(Path("rows.jsonl"), tmp_path).understood.startswith("prompts and answers: ")


def test_neither_language_is_claimed_of_another(tmp_path: Path) -> None:
    for text in (
        "Die {} liegt im Schuppen, wo sie gestern noch nicht war.",
        "{}は倉庫にあります。",
    ):
        assert seen(tmp_path, {"text": text}).understood == "plain text: text"


@pytest.mark.parametrize(
    ("name", "values", "columns"),
    [
        ("risk", [1, 2, 3], "{label: risk}"),
        ("is_toxic", ["true", "false"], "{label: is_toxic}"),
        ("Type", ["Payment", "Notice", "Law"], "{label: Type}"),
        ("stars", ["1", "2", "5"], "{label: stars}"),
    ],
)
def test_classes_next_to_a_lone_text_are_offered_first(
    tmp_path: Path, name: str, values: list[Any], columns: str
) -> None:
    """Numbers and names of books among them; left out, the rows would be plain text."""
    rows = [{"text": f"The tenant pays {n}.", name: values[n % len(values)]} for n in range(12)]
    seen = look(write_rows(tmp_path / "f.jsonl", rows), tmp_path)
    if name in ("risk", "stars"):
        assert seen.error is not None
        assert "looks like part of the task" in seen.error.what
    way = seen.ways[0] if seen.error else seen.ways[1]
    assert (way.template.name, way.columns) == ("classification", {"label": name})
