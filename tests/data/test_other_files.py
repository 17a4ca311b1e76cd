"""Files as they come: JSON in other layouts, other encodings, odd Parquet, and what is no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from tests.data.test_read import prepared, values
from tuner.data.bad_rows import BadRows
from tuner.data.reading.find import find
from tuner.data.reading.read import read, settle
from tuner.data.reading.table import Reading
from tuner.errors import DataError

ROWS = [{"prompt": f"Lid {n}?", "completion": f"Tin {n}.", "n": n} for n in range(3)]
PRETTY = "\n".join(json.dumps(row, indent=2) for row in ROWS)
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
NUMBERED = {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
        PRETTY,
        json.dumps(COLUMNS),
        json.dumps(COLUMNS, indent=1),
        json.dumps(NUMBERED),
    ],
    ids=["array", "pretty array", "lines of an array", "pretty", "columns", "pretty columns", "pd"],
)
def test_layouts_of_json_give_the_same_rows(tmp_path: Path, suffix: str, text: str) -> None:
    (tmp_path / f"a{suffix}").write_text(text)
    assert values(tmp_path / f"a{suffix}") == ROWS


def test_lines_of_pretty_rows_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(PRETTY.replace('"Lid 1?"', '["Lid"]'))
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepared(tmp_path, "a.jsonl")
    assert "the column 'prompt' is not text but a list: a.jsonl:6" in str(caught.value)


@pytest.mark.parametrize(
    "first", ['{"prompt": "a"', '[{"prompt": "a"},', '{"prompt": "a",', "[", '{"prompt": "a\n"}']
)
def test_a_broken_first_line_is_one_bad_row(tmp_path: Path, first: str) -> None:
    """As before: lines of rows stay lines."""
    lines = first + "\n" + "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    assert values(tmp_path / "a.jsonl", limit=2) == ROWS
    with pytest.raises(DataError, match="a row cannot be read"):
        values(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": ["a", "b"], "completion": ["c"]}, None),
        ({"messages": ["a", "b"]}, None),
        ({"prompt": [{"role": "user"}] * 2, "completion": [{"role": "assistant"}] * 2}, None),
        ({"input_ids": [1, 2], "labels": [3, 4]}, None),
        (
            [{"role": "user", "content": "a"}] * 2,
            {"messages": [{"role": "user", "content": "a"}] * 2},
        ),
        ("one text", {"text": "one text"}),
    ],
)
def test_a_row_that_stands_alone_is_one(tmp_path: Path, row: Any, wanted: Any) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert values(tmp_path / "a.jsonl") == [wanted or row]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_is_an_error_only_where_it_is_used(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"prompt": "a", "completion": "b", "score": {number}}}\n')
    assert prepared(tmp_path, "a.jsonl").report["ignored_columns"] == ["score"]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "x": 0}]
    text = json.dumps({"messages": turns}).replace('"x": 0', f'"x": {number}')
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepared(tmp_path, "a.jsonl")
    assert f"column 'messages' cannot be used: {number} is not JSON: a.jsonl:1" in str(caught.value)


def test_token_ids_are_no_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"input_ids": [1, 2], "labels": [-100, 2]}] * 2)
    with pytest.raises(DataError, match="the rows are token ids") as caught:
        prepared(tmp_path, "a.jsonl")
    assert "tokenizer.decode" in caught.value.fix


def test_messages_may_be_json_text(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Go?"}, {"role": "assistant", "content": "Yes."}]
    write_rows(tmp_path / "a.jsonl", [{"messages": json.dumps(turns)}])
    assert prepared(tmp_path, "a.jsonl").template == "chat"


CHINESE = "\u79df\u91d1\u4f55\u65f6\u5230\u671f\uff1f"
WESTERN = "Caf\u00e9 zur \u00dcbergabe"


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json", "txt"])
@pytest.mark.parametrize(
    ("encoding", "named", "text"),
    [
        ("gb18030", "gb18030", CHINESE),
        ("gbk", "gb18030", CHINESE),
        ("latin-1", "cp1252", WESTERN),
        ("utf-16", "utf-16", CHINESE),
        ("utf-16-be", "utf-16-be", WESTERN),
    ],
)
def test_an_encoding_is_named_with_the_key_that_reads_it(
    tmp_path: Path, suffix: str, encoding: str, named: str, text: str
) -> None:
    """Never guessed: the error's line reads the same rows as in UTF-8."""
    row = {"prompt": text, "completion": text}
    whole = {
        "csv": f"prompt,completion\n{text},{text}\n",
        "txt": f"{text}\n",
        "json": json.dumps([row] * 2, ensure_ascii=False, indent=1),
        "jsonl": (json.dumps(row, ensure_ascii=False) + "\n") * 2,
    }[suffix]
    name = f"a.{suffix}"
    path = tmp_path / name
    path.write_bytes(whole.encode(encoding))
    with pytest.raises(DataError) as caught:
        values(path)
    assert f"{{source: {name}, encoding: {named}}}" in str(caught.value)
    reading, _ = settle(path, Reading(name, encoding=named))
    rows = [each.values for each in read(path, BadRows(0), reading=reading)]
    path.write_bytes(b"\xef\xbb\xbf" + whole.encode())
    assert values(path) == rows


def test_a_wrong_encoding_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    source: Any = {"source": "a.jsonl", "encoding": "ascii"}
    with pytest.raises(DataError, match="is not encoded in ascii"):
        prepared(tmp_path, source)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt", ".parquet", ".zip"])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text(LFS)
    with pytest.raises(DataError, match="is a pointer of Git LFS") as caught:
        prepared(tmp_path, f"a{suffix}")
    assert f"git lfs pull --include a{suffix}" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("a.jsonl.gz", "gunzip --keep"),
        ("a.jsonl.zst", "unzstd"),
        ("a.arrow", "Dataset.from_file"),
        ("a.xlsx", "as CSV"),
        ("a.md", "as .txt"),
        ("a.pkl", "as JSON Lines"),
        ("a.xyz", "use one of .jsonl"),
    ],
)
def test_other_kinds_of_file_say_how_to_make_one(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="is not known") as caught:
        prepared(tmp_path, name)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("part*.jsonl", "is a pattern", "train: [part1.jsonl, part2.jsonl]"),
        ("more/*.csv", "is a pattern", "name the files"),
        ("more", "is a folder", "train: [more/x.jsonl]"),
        ("some-lab/songs", "no file", "hf download some-lab/songs --repo-type dataset"),
        ("some-lab/songs-v1.5", "no file", "hf download some-lab/songs-v1.5 --repo-type dataset"),
        ("songs", "no file", "hf download songs --repo-type dataset --local-dir songs"),
        ("https://songs.example/a.jsonl", "is an address", "download it"),
        ("gone.jsonl", "no file", "check the path"),
        ("gone/gone.jsonl", "no file", "check the path"),
    ],
)
def test_names_that_are_no_file_say_what_to_do(
    tmp_path: Path, name: str, what: str, fix: str
) -> None:
    (tmp_path / "more").mkdir()
    for file in ("part1.jsonl", "part2.jsonl", "more/x.jsonl", "more/notes.md"):
        (tmp_path / file).write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match=what) as caught:
        find(name, tmp_path, "data.train")
    assert fix in caught.value.fix


def test_odd_columns_of_parquet_fail_only_where_they_are_used(tmp_path: Path) -> None:
    """Dates out of range, unknown time zones, a name that is there twice: exit 3, never a crash."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    numbers = arrow.array([1 << 30, 1], arrow.int32())
    later = arrow.array([1 << 61, 1], arrow.int64())
    columns = {
        "prompt": arrow.array(["Go?", "Up?"]),
        "completion": arrow.array(["Yes.", "No."]),
        "day": numbers.cast(arrow.date32()),
        "then": later.cast(arrow.timestamp("ms")),
        "there": arrow.array([1, 1]).cast(arrow.timestamp("s", tz="Nowhere/Else")),
    }
    names, arrays = [*columns, "twice", "twice"], [*columns.values(), numbers, numbers]
    table = arrow.Table.from_arrays(arrays, names)
    parquet.write_table(table, tmp_path / "p.parquet")
    report = prepared(tmp_path, "p.parquet").report
    assert report["rows_train"] == 2
    assert report["ignored_columns"] == ["day", "then", "there", "twice"]
    for name, said in (
        ("day", "date32[day] value: out of range"),
        ("then", "timestamp[ms] value: out of range"),
        ("there", "timestamp[ms, tz=Nowhere/Else] value: unknown time zone"),
        ("twice", "the file has several columns of this name"),
    ):
        with pytest.raises(DataError, match="cannot be used") as caught:
            prepared(tmp_path, "p.parquet", columns={"completion": name})
        assert f"the column '{name}' cannot be used: {said}" in str(caught.value)
        assert caught.value.exit_code == 3


def test_a_broken_parquet_file_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "p.parquet").write_bytes(b"PAR1" + b"\0" * 64 + b"PAR1")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        prepared(tmp_path, "p.parquet")
