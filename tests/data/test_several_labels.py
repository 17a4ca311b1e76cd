"""Rows with several labels: all of them are offered, then what learns a part, which is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.test_labelled_files import asked, prepare
from tests.data.test_read import write_rows
from tests.tools.sets_table import lines_of
from tuner.data.look import look
from tuner.errors import DataError
from tuner.schema import strict_yaml

TAGS = (["sea"], ["land", "sea"], ["air"], ["air"], ["sea"])


def labels_in(found: Any) -> list[set[str]]:
    """The labels of each training row."""
    return [
        {label for label, goal in zip(found.labels, row.goals, strict=True) if goal}
        for row in found.train
    ]


def rows(**columns: Any) -> list[dict[str, Any]]:
    """Rows of a text and of columns with a value for each row."""
    return [
        {"id": f"e{n}", "text": f"Note {n} is about ships.", "year": 2001 + n % 3}
        | {name: values[n % len(values)] for name, values in columns.items()}
        for n in range(40)
    ]


@pytest.mark.parametrize("kind", ["words", "numbers", "objects of JSON", "another name"])
def test_lists_of_labels_offer_the_rows_with_one(tmp_path: Path, kind: str) -> None:
    column = "about" if kind == "another name" else "labels"
    numbers = {"sea": 0, "land": 1, "air": 2}
    values: Any = TAGS
    if kind == "numbers":
        values = [[numbers[tag] for tag in tags] for tags in TAGS]
    write_rows(tmp_path / "t.jsonl", rows(**{column: values}))
    found = look(Path("t.jsonl"), tmp_path)
    assert found.error is not None
    assert "by one label, of the 32 of 40 rows with one" in found.error.fix
    every, keys = (strict_yaml.parse(line)[0] for line in lines_of(found.error.fix)[:2])
    own = labels_in(prepare(tmp_path, "classes", **every))
    assert own == [set(map(str, values[n % len(values)])) for n in range(40)]
    names = {"label_names": {"0": "sea", "2": "air"}} if kind == "numbers" else {}
    assert ('label_names: {"0": NAME, "2": NAME}' in found.error.fix) == (kind == "numbers")
    result = prepare(tmp_path, **keys, **names)
    assert [answer for _, answer in asked(result)][:5] == ["sea", "air", "air", "sea", "sea"]
    assert asked(result)[0][0] == "Note 0 is about ships."


def test_lists_of_one_label_each_are_classes(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", rows(labels=(["sea"], ["air"])))
    found = look(Path("t.jsonl"), tmp_path)
    assert found.error is not None
    keys = strict_yaml.parse(lines_of(found.error.fix)[0])[0]
    assert (keys["train"], keys["columns"]) == ("t.jsonl", {"label": "labels.0"})
    assert len(prepare(tmp_path, **keys).train) == 40


@pytest.mark.parametrize("several", [1, 3])
def test_cells_with_several_labels_are_written_or_left_out(tmp_path: Path, several: int) -> None:
    """Where most cells have several, as soon as the file is seen; else when its labels are."""
    cells = ("sea", "air", "land", *(("sea, air", "land, sea", "air, land")[:several]))
    cells = cells if several == 1 else (*cells, "sea, air")
    write_rows(tmp_path / "t.jsonl", rows(Tags=cells))
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, train="t.jsonl", template="classification", columns={"label": "Tags"})
    count = sum(", " not in cells[n % len(cells)] for n in range(40))
    assert f"so that {count} of 40 rows are used" in caught.value.fix
    left, written, *_ = (strict_yaml.parse(line)[0] for line in lines_of(caught.value.fix))
    assert len(prepare(tmp_path, **left).train) == count
    assert asked(prepare(tmp_path, **written))[3] == ("Note 3 is about ships.", "sea, air")
    found = look(Path("t.jsonl"), tmp_path)
    assert found.error is not None
    if several == 3:
        assert f"by one label, of the {count} of 40 rows with one" in found.error.fix
        ways = found.choices({"train": str(tmp_path / "t.jsonl")})
        offered = [way.line({}).partition("t.jsonl")[2] for way in ways]
        lines = [line.partition("t.jsonl")[2] for line in lines_of(found.error.fix)]
        assert offered[:3] == lines[:3]
        assert [getattr(way, "head", False) for way in ways[:3]] == [True, False, False]
        every, first, second = (
            strict_yaml.parse(line)[0] for line in lines_of(found.error.fix)[:3]
        )
        own = labels_in(prepare(tmp_path, "classes", **every))
        assert own == [set(cells[n % len(cells)].split(", ")) for n in range(40)]
        assert asked(prepare(tmp_path, **first))[3][1] == "sea, air"
        assert prepare(tmp_path, **second).labels == ("air", "land", "sea")


def test_no_date_is_offered_as_the_label(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", rows(mood=("calm", "wild")))
    found = look(Path("t.jsonl"), tmp_path)
    assert {way.columns.get("label") for way in found.ways} == {"mood", None}


def test_flags_next_to_an_answer_are_not_its_labels(tmp_path: Path) -> None:
    """The class is in a column of its own; the columns of 0 and 1 say why."""
    flags = {"parties_are_diverse": ("True", "True", "False", "False")}
    flags |= {"amount_is_met": ("True", "False", "True")}
    write_rows(tmp_path / "rows.jsonl", rows(answer=("Yes", "No"), **flags))
    error = look(Path("rows.jsonl"), tmp_path).error
    assert error is not None
    assert "multi_label" not in error.fix
