"""Tables: what is seen of their separator, header and quotes, said, and settable by key."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_read import prepared, values
from tests.recipe.keys import problem, write
from tuner.data.bad_rows import BadRows
from tuner.data.reading import read
from tuner.data.reading.table import Reading
from tuner.data.sources.source_file import SourceFile
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import SourceSection
from tuner.schema.suggest import plain

SEEN = "read as seen in the file (keys of its source in data.train say otherwise): "


def settled(path: Path, known: frozenset[str] = frozenset(), **keys: Any) -> list[Any]:
    """Separator, header and quotes of a table, and what is said of them."""
    reading, said = read.settle(path, Reading(path.name, **keys), lambda: known)
    return [reading.separator, reading.header, reading.quotes, said]


def write_table(path: Path, rows: list[list[str]], separator: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_seen(tmp_path: Path, suffix: str, separator: str) -> None:
    """Cells that hold the others, over several lines too, do not mislead."""
    rows = [["prompt", "completion"]]
    rows += [[f"How many, {n};\ttell | us", f'First "{n}",\nthen {n}'] for n in range(5)]
    path = write_table(tmp_path / f"t{suffix}", rows, separator)
    assert [list(row.values()) for row in values(path)] == rows[1:]
    usual = {".csv": ",", ".tsv": "\t"}[suffix]
    warnings = prepared(tmp_path, path.name).report["warnings"]
    shown = "tab" if separator == "\t" else f'"{separator}"'
    wanted = [] if separator == usual else [f"{SEEN}{path.name}: cells separated by {shown}"]
    assert warnings == wanted


@pytest.mark.parametrize(
    "text",
    [
        "text\nfirst; second\nonly; this\n",
        "text\n",
        "text,label\na;b,c\nd;e,f\n",
        "text,label\na|b\nc|d,e,f\ng|h,i\n",
    ],
)
def test_the_usual_separator_stays_where_no_other_is_better(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert settled(tmp_path / "t.csv", frozenset({"text", "label"}))[0] == ","


HEADLESS = {
    "answers again": [[f"Which lid {n}?", "tin", "tar", "AB"[n % 2]] for n in range(6)],
    "letters": [["Which lid is on", "tin", "A"], ["Where", "tar", "B"], ["Who", "tea", "D"]],
    "a long text": [["The lid of the tin " * 6, "tin", "on"], ["The tar", "tar", "off"]],
    "numbers": [[f"name {n}", str(n + 3)] for n in range(4)],
    "sentences": [[f"Is lid {n} on?", f"It is on, {n}."] for n in range(4)],
}


@pytest.mark.parametrize("rows", HEADLESS.values(), ids=HEADLESS)
def test_a_missing_header_is_seen(tmp_path: Path, rows: list[list[str]]) -> None:
    """No row is lost, none becomes a header; it is said, and columns go by position."""
    path = write_table(tmp_path / "n.csv", rows)
    columns = [str(place) for place in range(1, len(rows[0]) + 1)]
    assert values(path) == [dict(zip(columns, row, strict=True)) for row in rows]
    said = f"n.csv: no header, so columns are named 1 to {len(columns)}"
    keys: dict[str, Any] = {"columns": {"prompt": "1", "completion": columns[-1]}}
    report = prepared(tmp_path, "n.csv", template="prompt_completion", **keys).report
    assert report["warnings"][0] == SEEN + said
    assert report["rows_train"] == len(rows)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, "n.csv", template="instruction")
    line = f"{{source: n.csv, columns: {{prompt: 1, completion: {columns[-1]}}}}}"
    assert line in caught.value.fix


HEADED = {
    "known": [["prompt", "completion"], ["Go?", "completion"], ["Up?", "Yes."]],
    "of the field": [["Clause Text", "Clause Type"], ["Rent is due.", "payment"]] * 2,
    "pandas": [["", "text"], ["0", "Rent."], ["1", "Notice."]],
    "pandas without names": [["0", "1"], ["Go?", "Yes."], ["Up?", "Yes."]],
    "options": [["question", "A", "B", "answer"], ["Which?", "A", "x", "B"]] * 2,
    "chinese": [["\u95ee\u9898", "\u56de\u7b54"], ["\u4f60\u597d\u5417?", "\u597d\u3002"]],
    "of the recipe": [["What did you see there?", "Anything else?"], ["Tin.", "No."]],
}


@pytest.mark.parametrize("rows", HEADED.values(), ids=HEADED)
def test_a_header_is_seen(tmp_path: Path, rows: list[list[str]]) -> None:
    known = frozenset({"question", "answer", "completion", "what did you see there?"})
    path = write_table(tmp_path / "h.csv", rows)
    assert settled(path, frozenset(map(plain, known)))[1] is True


def test_a_header_of_unknown_names_is_said(tmp_path: Path) -> None:
    """It may be a row: pairs of words look like names."""
    path = write_table(tmp_path / "h.csv", [["cat", "chat"], ["dog", "chien"], ["hen", "poule"]])
    assert settled(path)[3] == ["the first row as the header: cat | chat"]
    source: Any = {"source": "h.csv", "header": False}
    keys: dict[str, Any] = {"columns": {"prompt": "1", "completion": "2"}}
    assert prepared(tmp_path, source, template="prompt_completion", **keys).report["rows_in"] == 3


@pytest.mark.parametrize(
    "rows",
    [
        [["What is your name?", "city"], ["Ann", "Rome"], ["Bo", "Oslo"]],
        [["text", "2019", "2020"], ["Rent.", "1", "2"]],
    ],
)
def test_what_cannot_be_seen_is_asked_for(tmp_path: Path, rows: list[list[str]]) -> None:
    """With the two lines of recipe, each of which reads the file."""
    path = write_table(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match="cannot be seen whether the first row") as caught:
        settled(path)
    assert rows[0][0] in caught.value.why
    for header in (True, False):
        line = f"data: {{train: {{source: a.csv, header: {str(header).lower()}}}}}"
        assert line in caught.value.fix
        reading = read.settle(path, Reading(header=header))[0]
        assert len(list(read.read(path, BadRows(0), reading=reading))) == len(rows) - header


def test_empty_cells_of_a_header_are_named_by_position(tmp_path: Path) -> None:
    """As spreadsheets leave them at the end; a name that is there twice fails if it is used."""
    (tmp_path / "e.csv").write_text("prompt,completion,,\nGo?,Yes.,,\n")
    assert values(tmp_path / "e.csv") == [{"prompt": "Go?", "completion": "Yes.", "3": "", "4": ""}]
    (tmp_path / "d.csv").write_text("prompt,completion,note,note\nGo?,Yes.,a,b\n")
    assert prepared(tmp_path, "d.csv").report["ignored_columns"] == ["note"]
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepared(tmp_path, "d.csv", columns={"completion": "note"})
    assert "a column name appears twice in the header (rename one): d.csv:2" in str(caught.value)


QUOTED = 'prompt\tcompletion\n"Go" she said\tYes.\nUp?\t"No" he said\n'
OVER_LINES = 'prompt\tcompletion\n1\t"Stop\n2\tgo"\n'


@pytest.mark.parametrize("text", [QUOTED, OVER_LINES])
def test_quotes_of_a_tsv_may_be_text(tmp_path: Path, text: str) -> None:
    """Where the rule of CSV gives an error, or fewer rows than there are lines."""
    (tmp_path / "q.tsv").write_text(text)
    rows = [
        dict(zip(("prompt", "completion"), line.split("\t"), strict=True))
        for line in text.splitlines()[1:]
    ]
    assert values(tmp_path / "q.tsv") == rows
    warnings = prepared(tmp_path, "q.tsv").report["warnings"]
    assert warnings == [f"{SEEN}q.tsv: quotes as part of the text"]


def test_quotes_of_a_tsv_enclose_cells_where_they_do(tmp_path: Path) -> None:
    rows = [["prompt", "completion"], ["Say\n\thi", 'a "b"'], ["x", "y"]]
    path = write_table(tmp_path / "q.tsv", rows, "\t")
    assert [list(row.values()) for row in values(path)] == rows[1:]
    assert settled(path)[2:] == ["csv", ["the first row as the header: prompt | completion"]]


def test_quotes_of_a_csv_are_text_where_the_recipe_says_so(tmp_path: Path) -> None:
    """The error's line does it."""
    (tmp_path / "q.csv").write_text('prompt,completion\n"Go" she said,Yes.\n')
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, "q.csv")
    assert "data: {train: {source: q.csv, quotes: literal}}" in caught.value.fix
    source: Any = {"source": "q.csv", "quotes": "literal"}
    assert prepared(tmp_path, source).report["rows_train"] == 1


def test_a_text_file_with_a_separator_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("tin ## soft\nlead ## heavy\n")
    source: Any = {"source": "t.txt", "separator": " ## ", "header": False}
    keys: dict[str, Any] = {"columns": {"prompt": "1", "completion": "2"}}
    result = prepared(tmp_path, source, template="prompt_completion", **keys)
    assert [each.row for each in result.train] == ["t.txt:1", "t.txt:2"]


@pytest.mark.parametrize(
    ("separator", "shown"), [("||", '"||"'), (" ||| ", '" ||| "'), ("\t", "tab")]
)
@pytest.mark.parametrize("header", [False, True])
def test_lines_of_text_may_be_pairs(
    tmp_path: Path, separator: str, shown: str, header: bool
) -> None:
    """Refused with the recipes for pairs and for text; both read the file."""
    pairs = [(f"area[{n}], food[fish]", f"Fish is served in {n}.") for n in range(3)]
    lines = [*([("prompt", "completion")] * header), *pairs]
    (tmp_path / "p.txt").write_text("".join(separator.join(pair) + "\n" for pair in lines))
    with pytest.raises(DataError, match="read in two ways: as pairs, or as plain text") as caught:
        prepared(tmp_path, "p.txt")
    names = ("prompt", "completion") if header else ("1", "2")
    columns = "{" + f"prompt: {names[0]}, completion: {names[1]}" + "}"
    keys = f"separator: {shown}, header: {str(header).lower()}, columns: {columns}"
    assert f"data: {{train: {{source: p.txt, {keys}}}}}" in caught.value.fix
    source: Any = {"source": "p.txt", "separator": separator, "header": header}
    source["columns"] = {"prompt": names[0], "completion": names[1]}
    assert prepared(tmp_path, source).report["rows_train"] == 3
    assert "data: {train: {source: p.txt, template: text}}" in caught.value.fix
    assert prepared(tmp_path, "p.txt", template="text").report["rows_train"] == len(lines)


@pytest.mark.parametrize(("separator", "shown"), [("||", '"||"'), ("\t", "tab")])
def test_pairs_below_names_of_other_columns_are_a_table(
    tmp_path: Path, separator: str, shown: str
) -> None:
    """A text and its label: the recipe as printed classifies them."""
    cells = [
        ("text", "label"),
        *((f"Fish is in area {n}.", ("in", "out")[n % 2]) for n in range(12)),
    ]
    (tmp_path / "p.txt").write_text("".join(separator.join(pair) + "\n" for pair in cells))
    with pytest.raises(DataError, match="in two ways: as a table, or as plain text") as caught:
        prepared(tmp_path, "p.txt")
    assert f"data: {{train: {{source: p.txt, separator: {shown}}}}}" in caught.value.fix
    found = prepared(tmp_path, {"source": "p.txt", "separator": separator})
    assert (found.template, found.report["rows_train"]) == ("classification", 12)


@pytest.mark.parametrize("text", ["a||b||c\nd||e\n", "a||b\nc\n", "a||\n||b\n", "a||b\n"])
def test_other_lines_of_text_are_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    assert prepared(tmp_path, "t.txt").template == "text"


def test_the_eval_file_has_keys_of_its_own(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [["prompt", "completion"], ["Go?", "Yes."], ["Up?", "No."]])
    (tmp_path / "e.txt").write_text("Down?;Yes.\n")
    held: dict[str, Any] = {"source": "e.txt", "separator": ";", "header": False}
    held["columns"] = {"prompt": "1", "completion": "2"}
    result = prepared(tmp_path, "t.csv", eval=held)
    assert [row.example.row for row in result.eval] == ["e.txt:1"]


@pytest.mark.parametrize("keys", [{"separator": ";"}, {"header": False, "quotes": "csv"}])
def test_keys_of_tables_are_for_tables(tmp_path: Path, keys: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(RecipeError, match=f"{' and '.join(keys)} of a.jsonl, which has"):
        prepared(tmp_path, {"source": "a.jsonl", **keys})  # type: ignore[arg-type]


def test_wrong_keys_are_refused_by_the_schema(tmp_path: Path) -> None:
    for key, value, said in (
        ("encoding", "utf-9", "no text encoding is called 'utf-9'"),
        ("separator", '"', "neither quotes nor ends of lines"),
        ("quotes", "none", "expected one of csv, literal"),
        ("header", "maybe", "expected true or false"),
    ):
        recipe = write(tmp_path, {"data": {"train": {"source": "a.csv", key: value}}})
        assert said in str(problem(recipe)), key


def test_tab_is_a_word_of_the_recipe(tmp_path: Path) -> None:
    item = SourceSection(source="a.csv", separator="tab")
    (tmp_path / "a.csv").write_text("text,x\ta\nb,y\tc\n")
    data = DataSection(train=(item,))
    file = SourceFile.open(tmp_path / "a.csv", item, "data.train", data, tmp_path)
    assert [row.values for row in file.rows(BadRows(0))] == [{"text,x": "b,y", "a": "c"}]
