"""`tuner data recognise`: what a file is taken for, and the recipe that it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.test_read import write_rows
from tests.data.test_recognise import DROPPED, LINE, UNDERSTOOD, rows_of
from tests.tokenizers import make_tokenizer
from tuner.cli.recognise import data_recognise
from tuner.data.look import look
from tuner.data.preferences import PreferenceData
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, RecipeError
from tuner.recipe import load
from tuner.recipe.schema import DataSection


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


def test_a_recipe_for_several_labels_has_its_head(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [["late"], ["late", "lost"], [], ["lost"]]
    rows = [{"text": f"Barge {n} is here.", "labels": own[n % 4]} for n in range(16)]
    write_rows(folder / "tags.jsonl", rows)
    data_recognise(Path("tags.jsonl"), take=1, write=Path("tags.yaml"))
    assert "1  all the labels of a row, with model.task" in capsys.readouterr().out
    recipe = load.load(folder / "tags.yaml").recipe
    assert (recipe.model.task, recipe.data.multi_label) == ("classification", True)
    assert recipe.data.columns["label"] == "labels"
    data_recognise(Path("tags.jsonl"), take=2, write=Path("one.yaml"))
    assert load.load(folder / "one.yaml").recipe.model.task == "auto"


def pairs(count: int) -> list[dict[str, str]]:
    return [
        {"question": f"Where is {n}?", "chosen": f"At quay {n}.", "rejected": f"{n}?"}
        for n in range(count)
    ]


def test_comparisons_are_written_as_a_recipe_for_a_reward_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No way of supervised training reads them, and nothing is in question."""
    write_rows(folder / "pairs.jsonl", pairs(12))
    data_recognise(Path("pairs.jsonl"), json=True)
    event = json.loads(capsys.readouterr().out)
    said = "comparisons of answers (pairs): prompt (column question), chosen, rejected"
    assert (event["understood"], event["refused"]) == (f"{said}; English", None)
    assert event["recipes"] == ["data: {train: pairs.jsonl}"]
    (folder / "sub").mkdir()
    for path in (Path("r.yaml"), Path("sub/r.yaml")):
        data_recognise(Path("pairs.jsonl"), write=path)
        loaded = load.load(folder / path, [], "reward")
        found = planned(loaded.recipe.data, (folder / path).parent, PreferenceData)
        assert (found.report["pairs_train"], found.report["template"]) == (11, "pairs")
        assert found.report["understood"] == f"{said}; English"
        assert path.read_text().startswith(f"# {said}")


def planned(data: DataSection, folder: Path, task: type[Any]) -> Prepared:
    return task(Inputs(data, make_tokenizer("chatml"), folder, 7, 512)).prepare()


@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_files_of_several_splits_are_written_by_number(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Each way as printed; without a number nothing says which."""
    labels = [{"text": f"Barge {n} is late.", "label": ("in", "out")[n % 2]} for n in range(16)]
    rows = pairs(16) if kind == "pairs" else labels
    splits = ["test" if n % 4 == 3 else "train" for n in range(16)]
    write_rows(
        folder / "s.jsonl",
        [row | {"split": split} for row, split in zip(rows, splits, strict=True)],
    )
    with pytest.raises(DataError, match=r"the column 'split' of s\.jsonl says which") as caught:
        data_recognise(Path("s.jsonl"), write=Path("r.yaml"))
    assert caught.value.fix.endswith("--take N writes way N (1 to 2)")
    said = capsys.readouterr().out
    assert "comparisons of answers" in said if kind == "pairs" else "classification: text" in said
    assert "1  train on 'train' and score on 'test'" in said
    counts = []
    for number in (1, 2):
        data_recognise(Path("s.jsonl"), take=number, write=Path(f"{number}.yaml"))
        verb, task = ("reward", PreferenceData) if kind == "pairs" else ("sft", SftData)
        loaded = load.load(folder / f"{number}.yaml", ["data.eval=0"] * (number == 2), verb)
        found = planned(loaded.recipe.data, folder, task)
        counts.append((found.report["rows_train"], found.report["rows_eval"]))
    assert counts == [(12, 4), (16, 0)]


def test_rows_for_testing_are_not_compared_with_those_to_train_on(folder: Path) -> None:
    """A reward model would learn them as supervised training would; a plan refuses both."""
    rows = [row | {"split": ("train", "test")[n % 2]} for n, row in enumerate(pairs(12))]
    write_rows(folder / "s.jsonl", rows)
    with pytest.raises(DataError, match=r"the column 'split' of s\.jsonl says which"):
        planned(DataSection(train=("s.jsonl",)), folder, PreferenceData)
    resumed = Inputs(
        DataSection(train=("s.jsonl",), eval=0),
        make_tokenizer("chatml"),
        folder,
        *(7, 512),
        formats=(("pairs", None),),
    )
    assert PreferenceData(resumed).prepare().report["rows_train"] == 12


def test_a_wrong_encoding_and_a_column_in_question_are_said_at_once(folder: Path) -> None:
    """The recipes as printed mend both, in a plan too."""
    lines = "".join(
        f"M\u00fcller {n};siehe Seite {n};{'ja' if n % 2 else 'nein'}\n" for n in range(12)
    )
    (folder / "t.csv").write_bytes(f"text;hints;label\n{lines}".encode("cp1252"))
    with pytest.raises(DataError) as looked:
        data_recognise(Path("t.csv"))
    with pytest.raises(DataError) as stopped:
        planned(DataSection(train=("t.csv",), eval=0), folder, SftData)
    for error in (looked.value, stopped.value):
        assert "column 'hints' looks like part of the task" in error.what
        assert any("read as cp1252 it says" in why for why in error.problems)
        for line in LINE.findall(error.fix):
            data = DataSection.model_validate(yaml.safe_load(line) | {"eval": 0})
            assert planned(data, folder, SftData).report["rows_train"] == 12
    alone = re.sub(r";siehe Seite \d+", "", f"text;label\n{lines}")
    (folder / "t.csv").write_bytes(alone.encode("cp1252"))
    with pytest.raises(DataError) as stopped:
        planned(DataSection(train=("t.csv",), eval=0), folder, SftData)
    assert stopped.value.what.endswith("t.csv cannot be read")


def test_splits_and_spellings_of_labels_are_said_at_once(folder: Path) -> None:
    labels = ("late", "Late", "early")
    rows = [{"text": f"Barge {n}.", "label": labels[n % 3]} for n in range(18)]
    rows = [row | {"split": "test" if n % 6 == 5 else "train"} for n, row in enumerate(rows)]
    write_rows(folder / "s.jsonl", rows)
    with pytest.raises(DataError) as caught:
        planned(DataSection(train=("s.jsonl",)), folder, SftData)
    assert "says which rows are for testing" in caught.value.what
    assert "differ in case or white space only: 'Late' (6) and 'late' (6)" in caught.value.what
    (names,) = re.findall(r"data\.label_names: (\{.*?\})", caught.value.fix)
    first, *_ = LINE.findall(caught.value.fix)
    data = DataSection.model_validate(
        yaml.safe_load(first) | {"label_names": yaml.safe_load(names)}
    )
    assert planned(data, folder, SftData).report["rows_eval"] == 3
    with pytest.raises(DataError, match="differ in case") as looked:
        data_recognise(Path("s.jsonl"))
    assert names in looked.value.fix


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
