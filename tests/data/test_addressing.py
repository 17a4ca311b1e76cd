"""Columns that a recipe names by a path into nested rows, or by position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_read import prepared, write_rows
from tests.tokenizers import make_tokenizer
from tuner.data.preferences import PreferenceData
from tuner.data.prompts import PromptData
from tuner.data.tokens.prepared import Inputs
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

LISTS = [{"ask": f"Use of tin {n}?", "said": [f"cans {n}", f"roofs {n}"]} for n in range(3)]
FORMS = [
    {
        "meta": {"id": f"form {n}", "lang": "en"},
        "items": [{"q": f"Box {n}.{m}?", "a": f"Tick {n}.{m}."} for m in range(n)],
    }
    for n in range(4)
]


def shown(result: Any) -> list[tuple[str, str]]:
    """The prompts and answers that the training rows say."""
    tokenizer = make_tokenizer("chatml")
    turns = [tokenizer.decode(each.input_ids).split("\n") for each in result.train]
    return [(text[1].removesuffix("<|im_end|>"), text[3][: -len("<|im_end|>")]) for text in turns]


def names(**columns: str) -> dict[str, Any]:
    return {"template": "prompt_completion", "columns": columns}


def test_a_place_in_a_list_and_a_key_of_an_object(tmp_path: Path) -> None:
    write_rows(tmp_path / "l.jsonl", LISTS)
    result = prepared(tmp_path, "l.jsonl", **names(prompt="ask", completion="said.1"))
    assert shown(result) == [(f"Use of tin {n}?", f"roofs {n}") for n in range(3)]
    assert result.report["ignored_columns"] == []
    rows = [{"doc": {"q": f"Lid {n}?", "by": {"name": f"Ann {n}"}, "p": 3}} for n in range(3)]
    write_rows(tmp_path / "o.jsonl", rows)
    result = prepared(tmp_path, "o.jsonl", **names(prompt="doc.q", completion="doc.by.name"))
    assert shown(result) == [(f"Lid {n}?", f"Ann {n}") for n in range(3)]
    # What else the object holds is not left out unseen.
    assert result.report["ignored_columns"] == ["doc.p"]


def test_a_column_with_a_dot_in_its_name_comes_first(tmp_path: Path) -> None:
    write_rows(tmp_path / "d.jsonl", [{"m.id": "literal", "m": {"id": "below"}, "a": "x"}] * 2)
    result = prepared(tmp_path, "d.jsonl", **names(prompt="m.id", completion="a"))
    assert shown(result)[0] == ("literal", "x")
    assert result.report["ignored_columns"] == ["m"]


def test_each_item_of_a_list_becomes_a_row(tmp_path: Path) -> None:
    """Row names say the item, and the report says how many of how many."""
    write_rows(tmp_path / "f.jsonl", FORMS)
    keys = names(prompt="items.*.q", completion="items.*.a")
    result = prepared(tmp_path, "f.jsonl", **keys)
    pairs = [(n, m) for n in range(4) for m in range(n)]
    assert shown(result) == [(f"Box {n}.{m}?", f"Tick {n}.{m}.") for n, m in pairs]
    assert [each.row for each in result.train] == [f"f.jsonl:{n + 1} items.{m}" for n, m in pairs]
    (file,) = result.report["files"]
    assert file["items"] == {"rows_made": 6, "of": "items", "rows": 4, "without": 1}
    said = "f.jsonl: 6 rows of the items of items in 4 rows of the file, 1 of them without any"
    assert said in result.report["warnings"]
    # The rest of the row goes with each of its items.
    keys = names(prompt="items.*.q", completion="meta.id")
    both = prepared(tmp_path, "f.jsonl", **keys)
    assert shown(both)[-1] == ("Box 3.2?", "form 3")
    assert both.report["ignored_columns"] == ["meta.lang", "items.*.a"]


def test_items_count_as_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "f.jsonl", FORMS)
    keys = names(prompt="items.*.q", completion="items.*.a")
    drawn = prepared(tmp_path, {"source": "f.jsonl", "rows": 2}, **keys)  # type: ignore[arg-type]
    assert drawn.report["files"][0]["drawn_from"] == 6
    assert drawn.report["rows_train"] == 2


def test_a_mapping_of_a_source_takes_paths(tmp_path: Path) -> None:
    """And json in the cell of a table is opened."""
    (tmp_path / "c.csv").write_text('prompt,said\nGo?,"[""yes"", ""no""]"\nUp?,"[""on""]"\n')
    source: Any = {"source": "c.csv", "columns": {"completion": "said.0"}}
    write_rows(tmp_path / "l.jsonl", LISTS)
    other: Any = {"source": "l.jsonl", "columns": {"prompt": "ask", "completion": "said.0"}}
    result = prepared(tmp_path, source, other)
    assert shown(result)[:3] == [("Go?", "yes"), ("Up?", "on"), ("Use of tin 0?", "cans 0")]


def test_preferences_and_prompts_take_paths(tmp_path: Path) -> None:
    rows = [{"ask": f"Q{n}?", "pair": {"good": [f"yes {n}"], "bad": f"no {n}"}} for n in range(4)]
    write_rows(tmp_path / "p.jsonl", rows)
    columns = {"prompt": "ask", "chosen": "pair.good.0", "rejected": "pair.bad"}
    data = DataSection(train=("p.jsonl",), eval=0, columns=columns)
    inputs = Inputs(data, make_tokenizer("chatml"), tmp_path, 7, 512)
    ranking = PreferenceData(inputs).prepare().train[0]
    assert (ranking.prompt_text, *ranking.texts) == ("Q0?", "yes 0", "no 0")
    data = DataSection(train=("p.jsonl",), eval=0, **names(prompt="ask", completion="pair.good.0"))
    prompts = PromptData(Inputs(data, make_tokenizer("chatml"), tmp_path, 7, 512), 8).prepare()
    assert (prompts.train[1].text, prompts.train[1].reference) == ("Q1?", "yes 1")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("said.2", "no row of l.jsonl has 'said.2'|l.jsonl:1: 'said' has 2 items, counted from 0"),
        ("said.x", "l.jsonl:1: the path 'said.x': 'said' is a list; give a place, from 0 on, or *"),
        ("ask.0", "l.jsonl:1: the path 'ask.0': 'ask' is text, neither a list nor an object"),
        ("ask.*", "l.jsonl:1: the path 'ask.*': 'ask' is text, not a list"),
        ("sad.0", "the data has no column 'sad.0'|found: ask, said"),
    ],
)
def test_a_path_that_leads_nowhere(tmp_path: Path, path: str, said: str) -> None:
    write_rows(tmp_path / "l.jsonl", LISTS)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, "l.jsonl", **names(prompt="ask", completion=path))
    assert all(part in str(caught.value) for part in said.split("|"))


def test_a_path_that_some_rows_lack(tmp_path: Path) -> None:
    """The row and the path are named; a row of another shape counts as a bad one."""
    write_rows(tmp_path / "l.jsonl", [*LISTS, {"ask": "Lead?", "said": ["one"]}])
    keys = names(prompt="ask", completion="said.1")
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepared(tmp_path, "l.jsonl", **keys)
    assert "the column 'said.1' is missing: l.jsonl:4" in str(caught.value)
    write_rows(tmp_path / "l.jsonl", [*LISTS, {"ask": "Lead?", "said": 7}])
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepared(tmp_path, "l.jsonl", **keys)
    assert "'said' is a number, neither a list nor an object: l.jsonl:4" in str(caught.value)
    assert prepared(tmp_path, "l.jsonl", max_bad_rows=1, **keys).report["rows_train"] == 3


BOOKS = [
    {
        "title": f"Tools {n}",
        "chapters": [
            {
                "text": f"Chapter {n}.{m} is on saws.",
                "asked": [
                    {"q": f"On what is {n}.{m}.{k}?", "a": [{"t": f"saws {k}"}, {"t": "blades"}]}
                    for k in range(m)
                ],
            }
            for m in range(3)
        ],
    }
    for n in range(2)
]


def test_a_list_in_the_items_of_a_list(tmp_path: Path) -> None:
    """Each inner item is a row, with what the item around it says."""
    (tmp_path / "b.json").write_text(json.dumps({"version": "1", "data": BOOKS}))
    columns = {
        "context": "chapters.*.text",
        "question": "chapters.*.asked.*.q",
        "answer": "chapters.*.asked.*.a.0.t",
    }
    result = prepared(tmp_path, "b.json", template="qa_with_context", columns=columns)
    places = [(n, m, k) for n in range(2) for m in range(3) for k in range(m)]
    texts = [make_tokenizer("chatml").decode(each.input_ids) for each in result.train]
    assert len(texts) == len(places)
    for text, (n, m, k) in zip(texts, places, strict=True):
        assert f"Chapter {n}.{m} is" in text
        assert f"On what is {n}.{m}.{k}?" in text
        assert f"saws {k}<" in text
    assert result.train[-1].row == "b.json:1[2] chapters.2.asked.1"
    (file,) = result.report["files"]
    assert file["items"] == {"rows_made": 6, "of": "chapters.*.asked", "rows": 2, "without": 0}


def test_items_that_a_chosen_place_leaves_out_are_counted(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl", BOOKS)
    columns = {"prompt": "chapters.2.asked.*.q", "completion": "chapters.2.text"}
    result = prepared(tmp_path, "b.jsonl", **names(**columns))
    assert result.report["rows_train"] == 4
    assert "; 4 other items of chapters not read" in " ".join(result.report["warnings"])


def test_lists_next_to_each_other_go_together(tmp_path: Path) -> None:
    asked = [f"Box {m}?" for m in range(3)]
    rows = [{"asked": asked, "said": [{"t": f"Tick {n}.{m}."} for m in range(3)]} for n in range(2)]
    write_rows(tmp_path / "f.jsonl", rows)
    keys = names(prompt="asked.*", completion="said.*.t")
    pairs = [(f"Box {m}?", f"Tick {n}.{m}.") for n in range(2) for m in range(3)]
    assert shown(prepared(tmp_path, "f.jsonl", **keys)) == pairs
    short = {"asked": asked, "said": [{"t": "Tick."}]}
    write_rows(tmp_path / "f.jsonl", [*rows, short])
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepared(tmp_path, "f.jsonl", **keys)
    said = "items of lists go together one by one: 'asked' has 3 and 'said' has 1: f.jsonl:3"
    assert said in str(caught.value)


def test_arrays_are_rows_by_position(tmp_path: Path) -> None:
    """Without a mapping, the recipe that reads them; it does."""
    write_rows(tmp_path / "a.jsonl", [[f"Is tin {n} soft?", f"Tin {n} is."] for n in range(3)])
    with pytest.raises(DataError, match="columns have no names") as caught:
        prepared(tmp_path, "a.jsonl")
    assert "column 2: 'Tin 0 is.'" in str(caught.value)
    line = "data: {train: {source: a.jsonl, columns: {prompt: 1, completion: 2}}}"
    assert line in caught.value.fix
    source: Any = {"source": "a.jsonl", "columns": {"prompt": "1", "completion": "2"}}
    assert shown(prepared(tmp_path, source))[2] == ("Is tin 2 soft?", "Tin 2 is.")


def test_arrays_of_preferences_are_asked_for_by_position(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [["Q?", "good", "bad"], ["R?", "fine", "poor"]])
    data = DataSection(train=("a.jsonl",), eval=0)
    with pytest.raises(DataError) as caught:
        PreferenceData(Inputs(data, make_tokenizer("chatml"), tmp_path, 7, 512)).prepare()
    assert "columns: {prompt: 1, chosen: 2, rejected: 3}" in caught.value.fix
