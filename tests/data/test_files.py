"""File formats, broken files, and where files are looked for."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.test_read import ROWS, prepared, values, write_rows
from tuner.errors import DataError


def test_formats_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{**row, "completion": row["completion"] + '\n"quoted", line'} for row in ROWS]
    write_rows(tmp_path / "a.ndjson", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2), "utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"type": "x", "data": rows, "n": 1}), "utf-8")
    (tmp_path / "c.json").write_text((tmp_path / "a.ndjson").read_text("utf-8"), "utf-8")
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "completion"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    for name in ("a.ndjson", "a.json", "b.json", "c.json", "a.csv", "a.tsv"):
        assert values(tmp_path / name) == rows, name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"text": "a"},\n {"text": }]', "line 2, column 11"),
        ("b.json", '[{"text": "a"}\n {"text": "b"}]', "line 2, column 2: Expecting ','"),
        ("c.json", '[{"text": "a"}] junk', "Expecting the end of the file"),
        (
            "d.json",
            '{"a": 1,\n"b": 2}',
            "expected one array of rows (data, instances, examples, rows), found 0",
        ),
        ("e.json", '"text"', "neither an array nor an object"),
        (
            "f.json",
            '[\n{"text": "a"},\n["b"]]',
            "line 3: expected an object, as before, found an array",
        ),
        ("g.jsonl", '{"text": NaN}', "NaN is not JSON"),
        ("h.jsonl", "[" * 100_000, "nested too deeply"),
        ("i.csv", "text,text\na,b\n", "a column name appears twice"),
        ("j.csv", 'text,label\n"a\nb",c\n1,2,3\n', "line 4: 3 cells where the header has 2"),
        ("k.csv", 'text\n"open', "line 2: unexpected end of data"),
        ("l.docx", "x", "is not known"),
    ],
)
def test_broken_files_name_the_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, name)
    assert message in str(caught.value)


def test_missing_file_names_places_and_near_names(tmp_path: Path) -> None:
    write_rows(tmp_path / "contracts.jsonl", ROWS)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, "contract.jsonl")
    text = str(caught.value)
    assert str(tmp_path / "contract.jsonl") in text
    assert str(Path.cwd() / "contract.jsonl") in text
    assert "contracts.jsonl?" in text


def test_files_are_found_beside_the_recipe_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe").mkdir()
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "a.jsonl", ROWS[:3])
    assert prepared(tmp_path / "recipe", "a.jsonl").report["rows_train"] == 3
    write_rows(tmp_path / "recipe" / "a.jsonl", ROWS[:5])
    assert prepared(tmp_path / "recipe", "a.jsonl").report["rows_train"] == 5


def test_max_rows_takes_the_first_where_the_recipe_says_so(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", ROWS)
    write_rows(tmp_path / "b.jsonl", ROWS)
    result = prepared(tmp_path, "a.jsonl", "b.jsonl", max_rows=18, draw="first")
    assert [example.row for example in result.train][15:] == [
        "a.jsonl:16",
        "b.jsonl:1",
        "b.jsonl:2",
    ]
    assert [file["rows"] for file in result.report["files"]] == [16, 2]


def test_columns_that_are_not_used_are_listed(tmp_path: Path) -> None:
    """D09 and I07: an extra column is named; one that points to a file is never opened."""
    secret = tmp_path / "secret.txt"
    os.mkfifo(secret)  # opening it would block for ever
    rows = [{**row, "image": str(secret), "source": "http://127.0.0.1:9/x"} for row in ROWS]
    write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="column 'image' looks like part of the task"):
        prepared(tmp_path, "a.jsonl")
    report = prepared(tmp_path, "a.jsonl", columns={"image": "none"}).report
    assert report["ignored_columns"] == ["image", "source"]
    assert report["understood"].endswith("; not used: image, source")


def test_parts_that_are_not_text_are_refused(tmp_path: Path) -> None:
    """I07, D16: an image part of a message is an error, never a read."""
    part = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
    messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "x"}]
    write_rows(tmp_path / "a.jsonl", [{"messages": messages}])
    with pytest.raises(DataError, match="cannot be used for training") as caught:
        prepared(tmp_path, "a.jsonl")
    assert "parts that are not text ('image_url'), and only text is" in str(caught.value)


def test_light_modules_stay_light() -> None:
    code = (
        "import sys, tuner.data; print([m for m in ('torch', 'transformers', 'pandas', 'pyarrow',"
    )
    code += " 'datasets') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
