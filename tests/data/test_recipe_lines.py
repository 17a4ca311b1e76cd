"""The line of recipe that an error prints takes the place of the whole data section: what else the
section had is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.test_labelled_files import LABELS, TEXT, asked, prepare, table
from tests.data.test_read import write_rows
from tests.tools.sets_table import lines_of
from tuner.errors import DataError
from tuner.schema import strict_yaml

SPLITS = ("train", "train", "train", "val", "test", "train")


def lines_in(folder: Path, keys: dict[str, Any]) -> list[dict[str, Any]]:
    with pytest.raises(DataError) as caught:
        prepare(folder, **keys)
    return [strict_yaml.parse(line)[0] for line in lines_of(caught.value.fix)]


def clauses(folder: Path) -> None:
    table(folder, "c.csv", "Title|Clause|Class|Split", ("On A", "On B"), TEXT, LABELS, SPLITS)


def test_a_split_and_another_column_are_one_error_whose_lines_mend_both(tmp_path: Path) -> None:
    clauses(tmp_path)
    joined, out = lines_in(tmp_path, {"train": "c.csv"})
    for keys, start in ((joined, "On A\n\nSow"), (out, "Sow")):
        found = prepare(tmp_path, **keys)
        assert [(len(found.train), len(found.eval))] == [(16, 4)]
        assert [row.example.row for row in found.eval] == [f"c.csv:{n}" for n in (5, 11, 17, 23)]
        assert asked(found)[0][0].startswith(start)


@pytest.mark.parametrize(
    "more",
    [
        {"eval": {"source": "c.csv", "where": {"Split": "val"}}},
        {"eval": "e.csv"},
        {"eval": 0.25, "labels": "auto", "system": "Sort it."},
        {"eval": 5, "labels": ["early", "late"], "max_bad_rows": 3},
        {"label_names": {"early": "soon", "late": "not soon"}, "instruction": "Sort: it"},
    ],
)
def test_a_line_keeps_what_the_data_section_has_besides(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    clauses(tmp_path)
    table(tmp_path, "e.csv", "Title|Clause|Class", ("On A", "On B"), "Reap the {} {n}.", LABELS)
    keys: dict[str, Any] = {"train": {"source": "c.csv", "where": {"Split": "train"}}, **more}
    lines = lines_in(tmp_path, keys)
    assert len(lines) == 2
    for line in lines:
        for name, value in more.items():
            if isinstance(value, dict) and "where" in value:
                value = value | {"where": {"Split": ["val"]}}
            assert line[name] == (str(value) if isinstance(value, int | float) else value)
        assert prepare(tmp_path, **line).train


def test_an_eval_file_that_stops_a_plan_keeps_the_training_file(tmp_path: Path) -> None:
    clauses(tmp_path)
    names = {"Title": "none"}
    write_rows(
        tmp_path / "e.jsonl",
        [{"Clause": f"Reap {n}.", "Class": ("early", "-")[n % 2]} for n in range(8)],
    )
    train = {"source": "c.csv", "where": {"Split": "train"}, "columns": names}
    (line,) = lines_in(tmp_path, {"train": train, "eval": "e.jsonl"})
    assert line["train"] == train | {"where": {"Split": ["train"]}}
    assert len(prepare(tmp_path, **line).eval) == 4


def test_keys_that_no_source_has_are_not_put_into_one(tmp_path: Path) -> None:
    """Rows without labels, of a table in another encoding."""
    labels = ("früh", "spät", "", "früh", "spät", "spät")
    table(tmp_path, "t.csv", "Nr.|Satz|Sparte|Bemerkung", "{n}", TEXT, labels, ("", "", "ok"))
    (tmp_path / "t.csv").write_bytes((tmp_path / "t.csv").read_text("utf-8").encode("cp1252"))
    first, *_ = lines_in(tmp_path, {"train": "t.csv"})
    assert (first["max_bad_rows"], first["train"]["encoding"]) == ("4", "cp1252")
    assert prepare(tmp_path, **first).labels == ("früh", "spät")
