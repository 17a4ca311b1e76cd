"""Labels that are spread over columns of 0 and 1: the name of the one that is set is the label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.test_labelled_files import ROWS, asked, led_on, prepare, table
from tests.data.test_read import write_rows
from tuner.data.columns.evidence import Evidence
from tuner.data.columns.one_hot import group
from tuner.data.fields import joined
from tuner.data.look import look
from tuner.errors import DataError

HEADER, TEXT = "text|billing|delivery|quality", "The {} of order {n} came late."
FLAGS = (("1", "0", "0"), ("0", "1", "0"), ("0", "0", "1"))


def test_the_first_way_of_such_a_file_classifies_by_the_column_that_is_1(tmp_path: Path) -> None:
    """No way takes a column of flags for the label, or for a question."""
    table(tmp_path, "f.csv", HEADER, TEXT, *FLAGS)
    lines, found = led_on(tmp_path, "f.csv")
    assert lines == [
        '{train: f.csv, template: classification, columns: {label: "billing | delivery | quality"}}'
    ]
    names = ["billing", "delivery", "quality"]
    assert [answer for _, answer in asked(found)] == [names[n % 3] for n in range(ROWS)]
    assert asked(found)[1][0] == "The flax of order 1 came late."
    ways = look(tmp_path / "f.csv", tmp_path).ways
    assert [way.template.name for way in ways] == ["classification", "text"]


def test_a_file_whose_text_has_another_name_is_read_with_it(tmp_path: Path) -> None:
    flags = [{"urgent": n % 2 == 0, "calm": n % 2 == 1} for n in range(ROWS)]
    rows = [{"id": n, "Wortlaut": f"Barge {n} is here.", **flags[n]} for n in range(ROWS)]
    write_rows(tmp_path / "f.jsonl", rows)
    lines, found = led_on(tmp_path, "f.jsonl")
    assert lines[-1].endswith('columns: {text: Wortlaut, label: "urgent | calm"}}')
    assert asked(found)[:2] == [("Barge 0 is here.", "urgent"), ("Barge 1 is here.", "calm")]


def test_a_head_has_the_columns_as_its_classes(tmp_path: Path) -> None:
    table(tmp_path, "f.csv", HEADER, TEXT, *FLAGS)
    columns = {"label": "billing | delivery | quality"}
    found = prepare(tmp_path, "classes", train="f.csv", template="classification", columns=columns)
    assert found.labels == ("billing", "delivery", "quality")


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"a": 1, "b": 1, "c": 0}, "of a, b and c one must be 1, and 'a' and 'b' are"),
        ({"a": 0, "b": "", "c": None}, "of a, b and c one must be 1, and none is"),
        ({"a": 1, "b": 2, "c": 0}, "'b' is neither 0 nor 1: '2'"),
        ({"a": "x", "b": "1", "c": "0"}, "'a' is neither 0 nor 1: 'x'"),
    ],
)
def test_a_row_that_sets_none_or_several_is_a_bad_row(
    tmp_path: Path, cells: dict[str, Any], why: str
) -> None:
    good = [{"text": f"Row {n}.", "a": n % 2, "b": 1 - n % 2, "c": 0} for n in range(10)]
    write_rows(tmp_path / "f.jsonl", [*good, {"text": "Odd.", **cells}])
    columns = {"label": "a | b | c"}
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, train="f.jsonl", template="classification", columns=columns)
    assert any(why in problem for problem in caught.value.problems), caught.value


@pytest.mark.parametrize(
    ("value", "found"),
    [
        *((each, True) for each in (1, 1.0, True, "1", " True", "yes")),
        *((each, False) for each in (0, 0.0, False, "0", "FALSE", "no", "", None)),
        *((each, None) for each in (2, 0.5, "2", "maybe", [1], {"a": 1})),
    ],
)
def test_what_sets_a_column(value: Any, found: bool | None) -> None:
    assert joined.is_set(value) is found


def test_columns_that_are_often_set_together_are_no_labels_of_one_row() -> None:
    rows = [{"a": n % 2, "b": 1 - n % 2} for n in range(20)]
    assert group(Evidence(rows)) == ["a", "b"]
    assert group(Evidence(rows[:8])) == []
    assert group(Evidence([{**row, "b": 1} for row in rows])) == []
    assert group(Evidence([{**row, "c": 0} for row in rows])) == ["a", "b", "c"]
    assert group(Evidence([{**row, "a": 1, "b": 0} for row in rows])) == []
    assert group(Evidence([{"a": row["a"], "text": "x"} for row in rows])) == []
    kept = [{"reviewed": 1, "deleted": 0, "made": int(n % 12 == 0)} for n in range(24)]
    assert group(Evidence(kept)) == []
