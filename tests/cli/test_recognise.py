"""`tuner data recognise`: what a file is taken for, and the recipe that it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.data.test_read import write_rows
from tests.data.test_recognise import DROPPED, UNDERSTOOD, rows_of
from tuner.cli.recognise import data_recognise
from tuner.data.look import look
from tuner.errors import DataError, RecipeError
from tuner.recipe import load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "choice.jsonl", rows_of(UNDERSTOOD["options in a list"][0]))
    write_rows(tmp_path / "hints.jsonl", rows_of(DROPPED["hints"]))
    return tmp_path


def test_it_says_what_was_understood_and_writes_the_recipe(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_recognise(Path("choice.jsonl"), write=Path("r.yaml"))
    said = capsys.readouterr().out
    assert re.search(r"written +r\.yaml: way 1 of \d \(--take N writes another\), multiple", said)
    assert said.endswith("tuner plan r.yaml\n")
    assert UNDERSTOOD["options in a list"][1] in " ".join(said.split())
    section = load.load(folder / "r.yaml").recipe.data
    assert (section.template, section.columns) == ("multiple_choice", {"options": "choices"})
    assert section.train == ("choice.jsonl",)
    before = (folder / "r.yaml").read_bytes()
    with pytest.raises(RecipeError, match=r"r\.yaml is there already"):
        data_recognise(Path("choice.jsonl"), write=Path("r.yaml"))
    assert (folder / "r.yaml").read_bytes() == before


def test_json_has_the_alternatives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_recognise(Path("choice.jsonl"), json=True)
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "recognised"
    assert event["refused"] is None
    assert event["ways"][0]["template"] == "multiple_choice"
    assert all(way["recipe"].startswith("data: {train: choice.jsonl") for way in event["ways"])


def test_what_is_in_question_is_written_only_by_its_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last number leaves the column out."""
    with pytest.raises(DataError, match="'hints' looks like part of the task") as caught:
        data_recognise(Path("hints.jsonl"), write=Path("r.yaml"))
    count = len(look(Path("hints.jsonl"), folder).ways)
    said = caught.value.fix.splitlines()[-1]
    assert said.startswith("r.yaml was not written, since nothing says which way it is: ")
    assert said.endswith(f"--take N writes way N (1 to {count})")
    assert not (folder / "r.yaml").exists()
    with pytest.raises(RecipeError, match="--take 9: the ways to read the file are numbered 1 to"):
        data_recognise(Path("hints.jsonl"), take=9)
    data_recognise(Path("hints.jsonl"), take=1, write=Path("r.yaml"))
    assert "r.yaml: way 1 of" in capsys.readouterr().out
    section = load.load(folder / "r.yaml").recipe.data
    assert "hints" in section.columns.values()
    for number in range(1, count + 1):
        data_recognise(Path("hints.jsonl"), take=number, write=Path(f"{number}.yaml"))
        comment = (folder / f"{number}.yaml").read_text("utf-8").splitlines()[0]
        assert comment == f"# {look(Path('hints.jsonl'), folder).ways[number - 1].task}"


def test_a_recipe_whose_plan_stops_is_written_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"Barge {n} is late.", "label": n % 3} for n in range(12)]
    write_rows(folder / "n.jsonl", rows)
    data_recognise(Path("n.jsonl"), take=1, write=Path("n.yaml"))
    said = capsys.readouterr().out
    assert "The plan of n.yaml will stop:" in said
    assert "label_names" in said.partition("will stop:")[2]
    assert (folder / "n.yaml").exists()


def test_json_has_the_recipes_of_files_that_have_no_way(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"Where is {n}?", "chosen": "Here.", "rejected": f"{n}"} for n in range(9)]
    write_rows(folder / "pairs.jsonl", rows)
    with pytest.raises(DataError, match="no data template fits"):
        data_recognise(Path("pairs.jsonl"), json=True)
    event = json.loads(capsys.readouterr().out)
    assert event["recipes"] == ["data: {train: pairs.jsonl}"]


def test_how_a_file_is_read_can_be_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the recipe says it; an error names the option, and the recipe that is written has it."""
    rows = "".join(f"M\u00fcller kommt {n}mal;{'ja' if n % 2 else 'nein'}\n" for n in range(12))
    (folder / "t.csv").write_bytes(rows.encode("cp1252"))
    with pytest.raises(DataError, match="for this command: --encoding cp1252"):
        data_recognise(Path("t.csv"))
    keys = {"encoding": "cp1252", "separator": ";", "header": False}
    data_recognise(Path("t.csv"), take=1, write=Path("t.yaml"), json=True, **keys)
    event = json.loads(capsys.readouterr().out.splitlines()[0])
    line = 'train: {source: t.csv, encoding: cp1252, header: false, separator: ";"'
    assert line in event["ways"][0]["recipe"]
    data = load.load(folder / "t.yaml").recipe.data
    assert data.template == "classification"
    assert data.columns == {"text": "1", "label": "2"}
    assert {name: getattr(data.train[0], name) for name in keys} == keys
    with pytest.raises(RecipeError, match="no text encoding is called 'utf-99'"):
        data_recognise(Path("t.csv"), encoding="utf-99")
