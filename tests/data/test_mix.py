"""Sources of different formats in one run: recognised one by one, drawn, with a system turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_read import write_rows
from tests.tokenizers import make_tokenizer
from tuner.data.preferences import PreferenceData
from tuner.data.prompts import PromptData
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Who signs form {n}?"},
            {"role": "assistant", "content": f"The clerk of room {n}."},
        ]
    }
    for n in range(6)
]
TASKS = [{"instruction": f"Name month {n}.", "output": f"It is month {n}."} for n in range(6)]
FRAGEN = [{"frage": f"Frage {n}?", "antwort": f"Antwort {n}."} for n in range(40)]


def inputs(folder: Path, *train: Any, **keys: Any) -> Inputs:
    seed = keys.pop("seed", 7)
    write_rows(folder / "chats.jsonl", CHATS)
    write_rows(folder / "tasks.jsonl", TASKS)
    write_rows(folder / "fragen.jsonl", FRAGEN)
    data = DataSection(**({"train": train, "eval": 0} | keys))
    return Inputs(data, make_tokenizer("chatml"), folder, seed, 512)


def prepared(folder: Path, *train: Any, **keys: Any) -> Prepared:
    return SftData(inputs(folder, *train, **keys)).prepare()


def texts(result: Prepared) -> list[str]:
    tokenizer = make_tokenizer("chatml")
    return [tokenizer.decode(example.input_ids) for example in result.train]


FRAGE = {"source": "fragen.jsonl", "template": "prompt_completion"}
NAMES = {"prompt": "frage", "completion": "antwort"}


def test_each_source_has_its_own_format(tmp_path: Path) -> None:
    """D17: what is recognised in one file says nothing about another."""
    result = prepared(tmp_path, "chats.jsonl", "tasks.jsonl", {**FRAGE, "columns": NAMES})
    alone = [
        *texts(prepared(tmp_path, "chats.jsonl")),
        *texts(prepared(tmp_path, "tasks.jsonl")),
        *texts(prepared(tmp_path, "fragen.jsonl", template="prompt_completion", columns=NAMES)),
    ]
    assert texts(result) == alone
    assert result.template == "chat, instruction, prompt_completion"
    assert [(f["name"], f["template"], f["columns"]) for f in result.report["files"]] == [
        ("chats.jsonl", "chat", ["messages"]),
        ("tasks.jsonl", "instruction", ["instruction", "output"]),
        ("fragen.jsonl", "prompt_completion", ["frage", "antwort"]),
    ]


def test_an_eval_file_has_a_format_of_its_own(tmp_path: Path) -> None:
    """D17: what the training file has says nothing about it."""
    result = prepared(tmp_path, "tasks.jsonl", eval="chats.jsonl")
    assert [row.reference for row in result.eval] == [f"The clerk of room {n}." for n in range(6)]


def test_the_error_names_the_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fragen\.jsonl: no data template fits") as caught:
        prepared(tmp_path, "chats.jsonl", "fragen.jsonl")
    assert "- {source: fragen.jsonl, template: prompt_completion" in caught.value.fix
    assert "found: frage, antwort" in caught.value.problems


def test_rows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    """At most so many, not the first ones, in their order, and the same ones every time."""
    item = {**FRAGE, "columns": NAMES, "rows": 8}
    result = prepared(tmp_path, "chats.jsonl", item)
    lines = [int(row.row.partition(":")[2]) for row in result.train if "fragen" in row.row]
    assert len(lines) == 8
    assert lines == sorted(lines)
    assert max(lines) > 8
    (file,) = [file for file in result.report["files"] if file["name"] == "fragen.jsonl"]
    assert (file["rows"], file["drawn_from"]) == (8, 40)
    assert texts(prepared(tmp_path, item, "chats.jsonl"))[:8] == texts(result)[6:]
    assert texts(prepared(tmp_path, "chats.jsonl", item, seed=8)) != texts(result)
    few = prepared(tmp_path, {"source": "chats.jsonl", "rows": 99})
    assert (few.report["rows_train"], few.report["files"][0]["drawn_from"]) == (6, 6)


def test_a_source_may_give_a_system_turn(tmp_path: Path) -> None:
    """For rows that have none; a row's own stays."""
    own = {"system": "Be kind.", "instruction": "Greet.", "output": "Hello."}
    write_rows(tmp_path / "own.jsonl", [own, {**own, "system": "", "instruction": "Part."}])
    item = {"source": "own.jsonl", "system": "Be brief."}
    result = texts(prepared(tmp_path, "chats.jsonl", item))
    assert [text.count("Be brief.") for text in result] == [0] * 7 + [1]
    assert ["Be kind." in text for text in result[6:]] == [True, False]
    write_rows(tmp_path / "plain.jsonl", [{"text": "A line."}])
    with pytest.raises(RecipeError, match="a system turn for rows of the data template 'text'"):
        prepared(tmp_path, {"source": "plain.jsonl", "system": "Be brief."})


def test_renamed_columns_apply_to_the_sources_that_have_them(tmp_path: Path) -> None:
    result = prepared(tmp_path, "chats.jsonl", "fragen.jsonl", columns=NAMES)
    assert result.template == "chat, prompt_completion"
    with pytest.raises(DataError, match="no column 'frog'"):
        prepared(tmp_path, "chats.jsonl", "fragen.jsonl", columns={"prompt": "frog"})


def test_plain_text_next_to_chats_stays_plain(tmp_path: Path) -> None:
    """It has no prompt that a chat template could show; its eval rows are continuations."""
    write_rows(tmp_path / "plain.jsonl", [{"text": f"The ferry left pier {n}."} for n in range(4)])
    both = ("chats.jsonl", "plain.jsonl")
    result = prepared(tmp_path, *both)
    assert texts(result)[6:] == texts(prepared(tmp_path, "plain.jsonl"))
    assert texts(result)[:6] == texts(prepared(tmp_path, "chats.jsonl"))
    held = prepared(tmp_path, *both, eval=8).eval
    assert {row.example.row.partition(":")[0] for row in held} == set(both)
    for row in held:
        assert row.reference.startswith("The clerk") == row.example.row.startswith("chats")


def test_plain_prompts_of_two_kinds_are_refused(tmp_path: Path) -> None:
    """`chat` and `serve` could send only one of them."""
    write_rows(tmp_path / "asked.jsonl", [{"prompt": "Who?", "completion": " She."}])
    with pytest.raises(RecipeError, match="chat and prompt_completion put different texts"):
        prepared(tmp_path, "chats.jsonl", "asked.jsonl", render="raw")
    assert len(prepared(tmp_path, "chats.jsonl", "tasks.jsonl", render="raw").train) == 12


def test_one_file_twice_and_two_of_one_name(tmp_path: Path) -> None:
    """No row is taken for another, and a task number is kept for what is there twice."""
    other = tmp_path / "other"
    other.mkdir()
    write_rows(other / "chats.jsonl", CHATS)
    turned = {"source": "fragen.jsonl", "columns": {"prompt": "antwort", "completion": "frage"}}
    straight = {"source": "fragen.jsonl", "columns": NAMES}
    items = ("chats.jsonl", "other/chats.jsonl", straight, turned, straight)
    result = prepared(tmp_path, *items)
    assert result.report["rows_train"] == 6 + 6 + 3 * 40
    assert len({example.row for example in result.train}) == 132
    assert [example.task for example in result.train] == [
        *[0] * 6,
        *[1] * 6,
        *[2] * 40,
        *[3] * 40,
        *[2] * 40,
    ]


def test_prompts_and_preferences_mix_too(tmp_path: Path) -> None:
    """The other tasks recognise each source by itself as well."""
    mixed = PromptData(inputs(tmp_path, "chats.jsonl", "tasks.jsonl"), 8).prepare()
    assert [row.reference for row in mixed.train[5:7]] == ["The clerk of room 5.", "It is month 0."]
    pair = {"prompt": "Who?", "chosen": "She.", "rejected": "He."}
    ranks = {"prompt": "Which?", "answers": ["This.", "That.", "None."]}
    thumb = {"prompt": "Where?", "completion": "Here.", "label": True}
    write_rows(tmp_path / "pairs.jsonl", [pair])
    write_rows(tmp_path / "ranks.jsonl", [ranks])
    write_rows(tmp_path / "up.jsonl", [thumb])
    write_rows(tmp_path / "down.jsonl", [{**thumb, "completion": "There.", "label": False}])
    names = ("pairs.jsonl", "ranks.jsonl", "up.jsonl", "down.jsonl")
    system = {"source": names[0], "system": "Be brief."}
    result = PreferenceData(inputs(tmp_path, system, *names[1:])).prepare()
    assert sorted(len(row.pairs) for row in result.train) == [1, 1, 3]
    (first,) = [row for row in result.train if row.row.startswith("pairs")]
    assert first.messages[0] == {"role": "system", "content": "Be brief."}


def test_a_preview_shows_rows_of_every_source(tmp_path: Path) -> None:
    """By the formats that the whole file has, not by the rows that are shown."""
    write_rows(tmp_path / "late.jsonl", [{"question": "a", "answer": "b"}, {"rationale": "c"}])
    data = SftData(inputs(tmp_path, "chats.jsonl", "late.jsonl"))
    with pytest.raises(DataError, match=r"late\.jsonl"):
        data.preview(1)
    item = {**FRAGE, "columns": NAMES, "rows": 8}
    data = SftData(inputs(tmp_path, "chats.jsonl", item, max_rows=9))
    _, shown = data.preview(4)
    assert [row.row.partition(":")[0] for row in shown] == ["chats.jsonl"] * 2 + [
        "fragen.jsonl"
    ] * 2


def test_labels_come_from_the_sources_that_have_them(tmp_path: Path) -> None:
    rows = [{"text": f"Bill {n}", "label": "paid" if n % 2 else "due"} for n in range(8)]
    write_rows(tmp_path / "bills.jsonl", rows)
    result = prepared(tmp_path, "chats.jsonl", "bills.jsonl", eval=6)
    assert result.labels == ("due", "paid")
    json.dumps(result.report)
