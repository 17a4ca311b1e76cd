"""Reading files: D01 to D07, D13, D14, and what the report says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers import make_tokenizer
from tuner.data.bad_rows import BadRows
from tuner.data.columns.template_match import choose
from tuner.data.reading.read import read
from tuner.data.rows.dialogue import RowRenderer
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

ROWS = [
    {"prompt": f"Question {i} about café and 水?", "completion": f"Answer {i}. " * (1 + i % 5)}
    for i in range(16)
]


def prepared(folder: Path, *names: str, context: int = 512, **keys: Any) -> Prepared:
    """Prepare files of a folder with the ChatML tokenizer; no eval rows unless asked for."""
    data = DataSection(**({"train": names, "eval": 0} | keys))
    tokenizer = make_tokenizer("chatml")
    return SftData(Inputs(data, tokenizer, folder, 7, context)).prepare()


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def values(path: Path, limit: int = 0) -> list[dict[str, Any]]:
    return [row.values for row in read(path, BadRows(limit))]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    """D01: file, line and column; left out and counted where the recipe allows it."""
    lines = [json.dumps(row) for row in ROWS * 63][:1000]
    lines[516] = lines[516][:20]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines), "utf-8")
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, "bad.jsonl")
    assert caught.value.exit_code == 3
    assert "bad.jsonl, line 517, column 12" in str(caught.value)
    result = prepared(tmp_path, "bad.jsonl", max_bad_rows=1)
    assert result.report["rows_train"] == 999
    assert "line 517" in result.report["skipped"][0]["row"]
    assert any("line 517" in warning for warning in result.report["warnings"])


def test_types_do_not_depend_on_other_rows(tmp_path: Path) -> None:
    """D02: nulls first and strings later; empty lists first and objects later."""
    first = [{**row, "system": None} for row in ROWS]
    second = [{**row, "system": "Be brief."} for row in ROWS]
    write_rows(tmp_path / "a.jsonl", first)
    write_rows(tmp_path / "b.jsonl", second)
    rows = [row for name in ("a", "b") for row in read(tmp_path / f"{name}.jsonl", BadRows(0))]
    assert [row.values for row in rows] == first + second
    result = prepared(tmp_path, "a.jsonl", "b.jsonl")
    assert result.report["rows_train"] == 32
    decoded = make_tokenizer("chatml").decode(result.train[16].input_ids)
    assert decoded.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    tools = [{"messages": [], "tools": []}] * 899 + [{"messages": [], "tools": [{"a": 1}]}]
    assert values(write_rows(tmp_path / "c.jsonl", tools)) == tools


def test_no_key_is_invented(tmp_path: Path) -> None:
    """D03: rows with different tool arguments keep exactly their own keys."""
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "w", "arguments": {"c": 1}}}]},
        {"role": "tool", "content": "sun"},
        {"role": "assistant", "content": "Sunny."},
    ]
    other = json.loads(json.dumps(turns).replace('"c": 1', '"d": [2]'))
    path = write_rows(tmp_path / "t.jsonl", [{"messages": turns}, {"messages": other}])
    rows = list(read(path, BadRows(0)))
    assert [row.values["messages"] for row in rows] == [turns, other]
    renderer = RowRenderer(choose(DataSection(train=("t",)), ["messages"], tmp_path))
    assert [list(renderer.render(row).messages) for row in rows] == [turns, other]


def test_parquet_drops_the_nulls_that_arrow_adds(tmp_path: Path) -> None:
    """D03: absent struct fields of a Parquet file are absent in the row."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"m": {"a": 1}, "t": "x"}, {"m": {"b": [{"c": 2}]}, "t": "y"}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    assert values(tmp_path / "r.parquet") == rows


VARIANTS = {
    "plain": lambda text: text.encode(),
    "bom": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "cr_bom": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r").encode(),
    "no_end": lambda text: text.rstrip("\n").encode(),
    "blank_lines": lambda text: text.replace("\n", "\n\n \n").encode(),
}


def uneven(folder: Path) -> list[Path]:
    """The same rows in six ways of ending lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    paths = []
    for name, encode in VARIANTS.items():
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_bytes(encode(text))
    return paths


def test_line_ends_and_bom_do_not_matter(tmp_path: Path) -> None:
    """D04: six spellings of one file give the same rows and token ids."""
    reports = [prepared(tmp_path, path.name).report for path in uneven(tmp_path)]
    assert {report["rows_train"] for report in reports} == {16}
    assert len({report["tokens_sha256"] for report in reports}) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_refused_by_name(tmp_path: Path, encoding: str) -> None:
    """D04: another encoding is an error, not mojibake."""
    (tmp_path / "u.jsonl").write_text(json.dumps(ROWS[0]), encoding)
    with pytest.raises(DataError, match="UTF-32" if encoding == "utf-32" else "UTF-16"):
        prepared(tmp_path, "u.jsonl")


def test_latin1_is_refused_with_its_line(tmp_path: Path) -> None:
    """D04: a byte that is not UTF-8 names line and column."""
    (tmp_path / "l.jsonl").write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, "l.jsonl")
    assert "line 2, column 14: not UTF-8" in str(caught.value)


def test_only_newlines_end_lines(tmp_path: Path) -> None:
    """D05: U+2028, U+0085, form feed and NUL are text; a lone surrogate is refused."""
    text = "a\u2028b\u0085c\x0cd\x00e"
    raw = json.dumps({"prompt": "x", "completion": text}, ensure_ascii=False)
    assert "\u2028" in raw
    (tmp_path / "s.jsonl").write_text(raw + "\n", "utf-8")
    example = prepared(tmp_path, "s.jsonl").train[0]
    ids = [i for i, flag in zip(example.input_ids, example.supervised, strict=True) if flag]
    assert make_tokenizer("chatml").decode(ids) == text + "<|im_end|>"
    (tmp_path / "t.jsonl").write_text(raw + '\n{"prompt": "x", "completion": "\\ud800"}\n', "utf-8")
    with pytest.raises(DataError, match="cannot be read") as caught:
        prepared(tmp_path, "t.jsonl")
    assert "line 2: a lone surrogate" in str(caught.value)
    (tmp_path / "t.txt").write_text("one\u2028still one\n\n two\n", "utf-8")
    assert values(tmp_path / "t.txt") == [{"text": "one\u2028still one"}, {"text": " two"}]


D06 = """
import json, resource, sys
from pathlib import Path
from tests.data.test_read import prepared, ROWS
folder = Path(sys.argv[1])
prepared(folder, "small.jsonl")
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(json.dumps(prepared(folder, "big.jsonl", long="truncate").report))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_very_long_row_is_truncated_within_memory(tmp_path: Path) -> None:
    """D06: 64 MB in one row, with 1 GiB more than the process had before."""
    write_rows(tmp_path / "small.jsonl", ROWS)
    huge = {"prompt": "Tell me all.", "completion": "all of it " * 6_400_000}
    write_rows(tmp_path / "big.jsonl", [*ROWS, huge, *ROWS])
    result = subprocess.run(
        [sys.executable, "-c", D06, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    assert report["rows_train"] == 33
    assert report["truncated_rows"] == 1
    assert report["longest"] == 512
    assert report["rows_cut_while_reading"] == ["big.jsonl:17"]
    assert report["supervised_tokens_cut_share"] > 0.99


@pytest.mark.parametrize("content", ["", "\n \n\r\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    """D07: names the split and the file."""
    (tmp_path / "e.jsonl").write_text(content)
    with pytest.raises(DataError, match="train split is empty") as caught:
        prepared(tmp_path, "e.jsonl")
    assert "e.jsonl" in caught.value.why
    write_rows(tmp_path / "good.jsonl", ROWS)
    with pytest.raises(DataError, match="eval split is empty"):
        prepared(tmp_path, "good.jsonl", eval="e.jsonl")


def test_all_rows_left_out_is_an_error(tmp_path: Path) -> None:
    """D07: says what emptied the split."""
    write_rows(tmp_path / "b.jsonl", [{"prompt": "x", "completion": ""}] * 3)
    with pytest.raises(DataError, match="train split is empty") as caught:
        prepared(tmp_path, "b.jsonl", max_bad_rows=3)
    assert "3 bad" in caught.value.why
    write_rows(tmp_path / "good.jsonl", ROWS)
    with pytest.raises(DataError, match="eval split is empty") as caught:
        prepared(tmp_path, "good.jsonl", eval="good.jsonl")
    assert "are also in the training rows" in caught.value.why
    long = [{"prompt": "far too long " * 200, "completion": "x"}]
    write_rows(tmp_path / "long.jsonl", long)
    with pytest.raises(DataError, match="eval split is empty") as caught:
        prepared(tmp_path, "good.jsonl", eval="long.jsonl", long="truncate")
    assert "data.max_length 512" in caught.value.why


def test_nothing_stale_after_a_change_of_one_byte(tmp_path: Path) -> None:
    """D10: same size and time of change, another byte: other tokens; there is no cache."""
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    before = path.stat()
    first = prepared(tmp_path, "a.jsonl").report
    path.write_bytes(path.read_bytes().replace(b"Answer 3", b"Answer 4", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = prepared(tmp_path, "a.jsonl").report
    shorter = prepared(tmp_path, "a.jsonl", max_length=40, long="truncate").report
    shas = {report["tokens_sha256"] for report in (first, second, shorter)}
    assert len(shas) == 3
    assert first["files"][0]["sha256"] != second["files"][0]["sha256"]
    assert prepared(tmp_path, "a.jsonl").report == second


@pytest.mark.parametrize(
    "row", ['{"text": "a", "text": "b"}', '{"text": "a", "m": [{"k": 1, "k": 2}]}']
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_duplicate_keys_are_refused(tmp_path: Path, row: str, suffix: str) -> None:
    """D13: names line and key, at any depth."""
    good = '{"text": "fine"}'
    text = f"{good}\n{row}\n" if suffix == ".jsonl" else f"[{good},\n{row}]"
    (tmp_path / f"d{suffix}").write_text(text)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, f"d{suffix}")
    assert f"line 2: the key '{'text' if 'b' in row else 'k'}' appears twice" in str(caught.value)
    assert len(values(tmp_path / f"d{suffix}", limit=1)) == 1


D14 = """
import sys
from pathlib import Path
from tests.data.test_read import prepared, uneven
for path in uneven(Path(sys.argv[1])):
    print(prepared(path.parent, path.name).report["tokens_sha256"])
"""


def test_the_locale_does_not_matter(tmp_path: Path) -> None:
    """D14: the files of D04 under the C locale."""
    (tmp_path / "x").mkdir()
    write_rows(tmp_path / "a.jsonl", ROWS)
    result = subprocess.run(
        [sys.executable, "-c", D14, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert set(result.stdout.split()) == {prepared(tmp_path, "a.jsonl").report["tokens_sha256"]}


def test_truncation_is_at_the_length_asked_for_and_reported(tmp_path: Path) -> None:
    """D15: the end is cut, at exactly `max_length`, never at another; shares are reported."""
    write_rows(tmp_path / "a.jsonl", [{"text": "word " * 3000}, {"text": "short"}])
    for asked, length in ((256, 256), (2048, 2048), ("auto", 6000)):
        result = prepared(tmp_path, "a.jsonl", context=6000, max_length=asked, long="truncate")
        full = prepared(tmp_path, "a.jsonl", context=20_000).train[0]
        total = len(full.input_ids)
        assert total > 6000
        assert result.report["longest"] == len(result.train[0].input_ids) == length
        assert result.train[0].input_ids == full.input_ids[:length]
        assert result.report["truncated_rows"] == 1
        assert result.report["supervised_tokens_cut_share"] == pytest.approx(
            (total - length) / total, abs=0.01
        )
    with pytest.raises(RecipeError, match="more than the model can take"):
        prepared(tmp_path, "a.jsonl", context=128, max_length=256)


def test_rows_on_one_line_have_names_of_their_own(tmp_path: Path) -> None:
    """What `json.dump(rows, file)` writes: counts and messages are by row, not by line."""
    path = tmp_path / "all.json"
    path.write_text(json.dumps([{"text": f"row {n}"} for n in range(3)]), "utf-8")
    rows = list(read(path, BadRows(0)))
    assert [row.id for row in rows] == ["all.json:1", "all.json:1[2]", "all.json:1[3]"]
