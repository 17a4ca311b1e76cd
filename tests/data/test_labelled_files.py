"""Files of classes and of pairs as they are found: each is read as what it is, or an error's first
recipe reads it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_read import write_rows
from tests.tokenizers import make_tokenizer
from tests.tools.sets_table import lines_of
from tuner.data.look import look
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, TunerError
from tuner.recipe.schema import DataSection
from tuner.schema import strict_yaml

CROPS = ("oats", "flax", "hops", "rye", "maize", "hemp", "beets", "peas", "clover", "kale", "leeks")
ROWS = 24


def table(
    folder: Path, name: str, header: str, *cells: Any, separator: str = ",", start: str = ""
) -> Path:
    """Write a table: in a cell {} is a crop and {n} the row's number; a tuple has a value a row."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator)
    if header:
        writer.writerow(header.split("|"))
    for n in range(ROWS):
        values = [each[n % len(each)] if isinstance(each, tuple) else each for each in cells]
        crop = CROPS[n % len(CROPS)]
        writer.writerow([str(v).replace("{}", crop).replace("{n}", str(n)) for v in values])
    (folder / name).write_bytes((start + out.getvalue()).encode())
    return folder / name


def prepare(folder: Path, head: str = "language", **keys: Any) -> Prepared:
    data = DataSection.model_validate({"eval": 0} | keys)
    tokenizer = make_tokenizer("encoder" if head == "classes" else "chatml")
    if head == "classes":
        tokenizer.eos_token = tokenizer.sep_token
    return SftData(Inputs(data, tokenizer, folder, 7, 2048), head).prepare()


def asked(result: Prepared) -> list[tuple[str, str]]:
    """What the training rows ask, and the answer."""
    tokenizer = make_tokenizer("chatml")
    turns = [tokenizer.decode(each.input_ids).split("<|im_end|>") for each in result.train]
    return [(turn[0].split("user\n", 1)[1], turn[1].split("\n")[-1]) for turn in turns]


def led_on(folder: Path, name: str, **first: Any) -> tuple[list[str], Prepared]:
    """Follow the first recipe of each error; none comes twice."""
    keys, lines = {"train": name, **first}, list[str]()
    for _ in range(4):
        try:
            return lines, prepare(folder, **keys)
        except TunerError as error:
            line = next(iter(lines_of(error.fix)), "")
            if not line or line in lines:
                raise AssertionError(lines) from error
            lines.append(line)
            keys = strict_yaml.parse(line)[0]
    raise AssertionError(lines)


TEXT, LONG = "Sow the {} in week {n}.", "The {} of field {n} came in late and was wet. " * 3
LABELS = ("early", "late", "early")
# Header, cells, and the columns of the recipe that is offered first.
LABELLED: dict[str, tuple[str, list[Any], str]] = {
    "the label first": ("v1|v2|||", [LABELS, TEXT, "", "", ""], "text: v2, label: v1"),
    "a class index": (
        "Class Index|Title|Description",
        [("1", "2", "3"), TEXT, LONG],
        "text: Title + Description, label: Class Index",
    ),
    "title and body": (
        "title|body|category",
        [TEXT, LONG, LABELS],
        "text: title + body, label: category",
    ),
    "a column next to the text": (
        "text|region|label",
        [LONG, ("north", "south", "east", "west"), LABELS],
        "text: region + text",
    ),
    "several next to the text": (
        "text|country|title|year|label",
        [LONG, ("Malta", "Peru"), "On {} {n}", ("1999", "2004"), LABELS],
        "text: country + title + text",
    ),
    "a question in the header": (
        "Field Note|Region|Is it dry?",
        [LONG, ("north", "south", "east"), ("Yes", "No")],
        'text: Region + Field Note, label: "Is it dry?"',
    ),
    "abbreviations in the header": (
        "Ref. No.|Docket No.|Field Note|Verdict:",
        ["C-{n}", "4{n}", LONG, LABELS],
        'text: Field Note, label: "Verdict:"',
    ),
    "without names": ("", [TEXT, LABELS], 'text: "1", label: "2"'),
    "without names, the label first": ("", [LABELS, TEXT], 'text: "2", label: "1"'),
    "three without names": ("", [("1", "2", "3"), TEXT, LONG], 'text: "2 + 3", label: "1"'),
}


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("name", LABELLED)
def test_the_first_recipe_reads_text_and_label(tmp_path: Path, name: str, separator: str) -> None:
    header, cells, columns = LABELLED[name]
    table(tmp_path, "t.csv", header, *cells, separator=separator)
    found = look(Path("t.csv"), tmp_path)
    assert found.ways[0].template.name == "classification"
    lines = lines_of(found.error.fix) if found.error else []
    assert f"columns: {{{columns}}}" in lines[0]
    keys = strict_yaml.parse(lines[0])[0]
    numbers = ("1", "2", "3") in cells
    more = found.error.fix.partition("label_names: ")[2] if found.error else ""
    assert more.startswith('{"1": NAME, "2": NAME, "3": NAME}') is numbers
    assert ('labels: ["1", "2", "3"]' in more) is numbers
    names = {"label_names": {"1": "x", "2": "y", "3": "z"}} if numbers else {}
    result = prepare(tmp_path, **keys, **names)
    assert len(result.train) == ROWS
    assert result.report["ignored_columns"] == [
        each for each in header.split("|") if each == "year" or each.endswith("No.")
    ] + [str(n) for n in (3, 4, 5) if "||" in header]
    for question, answer in asked(result):
        assert any(crop in question for crop in CROPS)
        assert answer in ("early", "late", "x", "y", "z", "Yes", "No")
    # The line that leaves a column out goes on as well.
    prepare(tmp_path, **strict_yaml.parse(lines[-1])[0], **names)


def test_a_joined_text_has_an_empty_line_between_its_parts(tmp_path: Path) -> None:
    rows = [
        {"head": "On oats", "meta": {"n": 3}, "body": "Sow.", "label": "x"},
        {"head": " ", "meta": {"n": None}, "body": "Reap.", "label": "y"},
        {"body": "Mow.", "meta": {}, "label": "y", "a + b": "no"},
    ]
    write_rows(tmp_path / "r.jsonl", rows)
    columns = {"text": "head + meta.n + body"}
    result = prepare(tmp_path, train="r.jsonl", template="classification", columns=columns)
    assert [question for question, _ in asked(result)] == ["On oats\n\n3\n\nSow.", "Reap.", "Mow."]
    assert result.report["ignored_columns"] == ["a + b"]
    # A column that is called so comes first; one that no row has is named.
    own = {"prompt": "a + b", "completion": "label"}
    write_rows(tmp_path / "o.jsonl", [{**rows[2], "a": "1", "b": "2"}])
    result = prepare(tmp_path, train="o.jsonl", template="prompt_completion", columns=own)
    assert asked(result) == [("no", "y")]
    with pytest.raises(DataError, match=r"no row of r\.jsonl has 'heed'"):
        prepare(tmp_path, train="r.jsonl", columns={"text": "heed + body"})


def test_what_gives_the_label_away_is_not_offered(tmp_path: Path) -> None:
    cells = [LONG, LABELS, tuple(f"is {each}" for each in LABELS), "It says so {n}.", "the same"]
    table(tmp_path, "t.csv", "text|label|verdict|explanation|note", *cells)
    found = look(Path("t.csv"), tmp_path)
    assert found.error is not None
    reasons, out = lines_of(found.error.fix)
    assert "reasoning_column: explanation, columns: {verdict: none, note: none}" in reasons
    assert "columns: {verdict: none, explanation: none, note: none}" in out


# Header, cells, and the columns of the ways that are offered.
BY_LABEL: dict[str, tuple[str, list[Any], list[str]]] = {
    "type and zone": (
        "id|clause|type|zone|reviewer|checked by",
        ["{n}", LONG, LABELS, ("north", "south", "east", "west"), ("MK", "J. D."), ("A", "B")],
        ["text: zone + clause, label: type", "text: clause, label: zone, type: none"],
    ),
    "marks": (
        "No.|Wording|Risk?|UK|US|Note",
        ["{n}", LONG, LABELS, ("x", "", ""), ("", "", "", "x"), ("", "", "", "ours", "theirs")],
        ['text: Wording, label: "Risk?", UK: none, US: none, Note: none'],
    ),
    "two labels": (
        "Field note|Verdict|Crop",
        [LONG, LABELS, ("oats", "flax", "rye", "hops")],
        ["text: Verdict + Field note, label: Crop", "text: Crop + Field note, label: Verdict"],
    ),
    "a type alone": ("text|type", [LONG, LABELS], ["label: type"]),
    "a letter": (
        "ticket_id|subject|body|queue",
        ["T{n}", "On the {} of {n}", LONG, LABELS],
        ["text: subject + body, label: queue"],
    ),
}


@pytest.mark.parametrize("name", BY_LABEL)
def test_each_column_that_may_be_the_label_has_a_way(tmp_path: Path, name: str) -> None:
    header, cells, columns = BY_LABEL[name]
    table(tmp_path, "t.csv", header, *cells)
    found = look(Path("t.csv"), tmp_path)
    assert found.error is not None
    lines = lines_of(found.error.fix)
    for line, said in zip(lines, columns, strict=False):
        assert f"template: classification, columns: {{{said}}}" in line
        assert len(prepare(tmp_path, **strict_yaml.parse(line)[0]).train) == ROWS
    # No other way takes a label for the answer and drops the first.
    label = columns[0].rpartition("label: ")[2]
    assert all(label in line for line in lines[: len(found.ways)])
    assert not any("reviewer" in line or "checked by" in line for line in lines)


def test_two_languages_without_names(tmp_path: Path) -> None:
    chinese = tuple(f"第{n}块地种了{'麦稻豆'[n % 3]}子。" for n in range(ROWS))
    table(tmp_path, "t.tsv", "", "The {} is in field {n}.", chinese, separator="\t")
    lines, result = led_on(tmp_path, "t.tsv")
    assert 'template: translation_en_zh, columns: {english: "1", chinese: "2"}' in lines[0]
    assert asked(result)[1][1] == chinese[1]
    table(tmp_path, "u.tsv", "", chinese, "The {} is in field {n}.", separator="\t")
    found = look(Path("u.tsv"), tmp_path)
    assert {"english": "2", "chinese": "1"} in [way.columns for way in found.ways]


PAIRED: dict[str, tuple[str, list[Any], str]] = {
    "SICK": (
        "pair_ID|sentence_A|sentence_B|entailment_label|relatedness_score",
        ["{n}", TEXT, LONG, ("NEUTRAL", "ENTAILMENT"), ("3.5", "4.25", "1.0")],
        "sentence1 (column sentence_A), sentence2 (column sentence_B), label is one of 2 labels",
    ),
    "MRPC": (
        "Quality|#1 ID|#2 ID|#1 String|#2 String",
        [("1", "0"), "7{n}", "8{n}", TEXT, LONG],
        "sentence1 (column #1 String), sentence2 (column #2 String), label is one of 2 labels",
    ),
    "QNLI": (
        "index|question|sentence|label",
        ["{n}", "When are the {} sown?", LONG, ("entailment", "not_entailment")],
        "sentence1 (column question), sentence2 (column sentence), label is one of 2 labels",
    ),
    "questions": (
        "id|qid1|qid2|question1|question2|is_duplicate",
        ["{n}", "1{n}", "2{n}", "When are the {} sown?", "Who sows {n}?", ("0", "1")],
        "sentence1 (column question1), sentence2 (column question2), label is one of 2 labels",
    ),
    "SNLI": (
        "gold_label|sentence1_parse|sentence1|sentence2|captionID",
        [("neutral", "entailment"), "(ROOT (S (NP {}) (VP grow)))" * 9, TEXT, LONG, "{n}#1"],
        "sentence1, sentence2, label is one of 2 labels (column gold_label)",
    ),
}


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_are_recognised(tmp_path: Path, name: str) -> None:
    header, cells, sentence = PAIRED[name]
    table(tmp_path, "t.tsv", header, *cells, separator="\t")
    found = look(Path("t.tsv"), tmp_path)
    assert found.understood.startswith(f"pair classification: {sentence}")
    numbers = ("0", "1") in cells or ("1", "0") in cells
    names = {"label_names": {"0": "no", "1": "yes"}} if numbers else {}
    refused = found.error.what if found.error else ""
    assert refused == ("the labels are numbers, not words: 0, 1" if numbers else "")
    if numbers:
        with pytest.raises(DataError, match=refused):
            prepare(tmp_path, train="t.tsv")
    result = prepare(tmp_path, train="t.tsv", **names)
    assert all("First text: " in question for question, _ in asked(result))


@pytest.mark.parametrize("name", ["score", "label"])
def test_scores_are_no_classes(tmp_path: Path, name: str) -> None:
    """The number can be learned as text; a head has no use for it."""
    scores = tuple(f"{n / 5:g}" for n in range(ROWS))
    table(tmp_path, "t.csv", f"sentence1|sentence2|{name}", TEXT, LONG, scores)
    with pytest.raises(DataError, match=f"'{name}' of t.csv holds scores, not labels") as caught:
        prepare(tmp_path, train="t.csv")
    assert "24 different numbers from 0 to 4.6" in str(caught.value)
    lines, result = led_on(tmp_path, "t.csv")
    assert f"{{prompt: sentence1 + sentence2, completion: {name}}}" in lines[-1]
    assert [answer for _, answer in asked(result)] == list(scores)
    with pytest.raises(DataError, match="holds scores"):
        prepare(tmp_path, "classes", train="t.csv")


@pytest.mark.parametrize("separator", ["\t", ";", ","])
@pytest.mark.parametrize("header", ["Zone|#1 Note|#2 Note|Verdict", "no|clause|remark|label"])
def test_a_text_file_may_be_a_table(tmp_path: Path, header: str, separator: str) -> None:
    cells = [("north", "south"), TEXT, LONG, LABELS]
    table(tmp_path, "t.txt", header, *cells, separator=separator)
    with pytest.raises(DataError, match=r"two ways: as a table, (?s:.*)has 4 cells") as caught:
        prepare(tmp_path, train="t.txt")
    asked_table, text = (strict_yaml.parse(line)[0] for line in lines_of(caught.value.fix))
    assert len(prepare(tmp_path, **text).train) == ROWS + 1
    found = look(Path("t.txt"), tmp_path, {"separator": asked_table["train"]["separator"]})
    assert list(found.columns) == header.split("|")
    (tmp_path / "t.txt").write_text("The label, then the clause.\nSow, reap.\nMow, rake.\n")
    assert look(Path("t.txt"), tmp_path).error is None


def sheet(folder: Path, text: str) -> list[tuple[str, str]]:
    (folder / "s.csv").write_text(text, "utf-8", newline="")
    return asked(prepare(folder, train="s.csv"))


def test_what_spreadsheets_add_is_no_row(tmp_path: Path) -> None:
    """sep=;, the mark of UTF-8, empty rows and cells; line numbers stay the file's."""
    rows = [(f"Sow {n};\nthen reap.", ("early", "late")[n % 2]) for n in range(12)]
    body = "".join(f'"{text}";{label}{{}}\r\n' for text, label in rows)
    heads = {
        "plain": ("Text;Label\r\n", ""),
        "marked": ("\ufeffText;Label\r\n", ""),
        "declared": ("\ufeffsep=;\r\nText;Label\r\n", ""),
        "wider": ("Text;Label;;\r\n", ";;"),
        "wider rows": ("Text;Label\r\n", ";"),
        "a row before": (";\r\nText;Label\r\n", ""),
    }
    for name, (head, more) in heads.items():
        empty = f";{more}\r\n" * 3
        assert sheet(tmp_path, head + body.replace("{}", more) + empty) == rows, name
    text = "sep=,\nprompt,completion\na,b\nc,d,e\n"
    with pytest.raises(DataError, match="line 4: 3 cells where the header has 2"):
        sheet(tmp_path, text)


def test_what_the_recipe_says_of_a_file_stays_in_the_next_line(tmp_path: Path) -> None:
    """Each line leads on, and none drops what the last one said."""
    text = "Müller,late\nMaier,early\n" * 6 + "1,2\n"
    (tmp_path / "t.csv").write_bytes(text.encode("cp1252"))
    lines, _ = led_on(tmp_path, "t.csv")
    assert "encoding: cp1252" in lines[0]
    assert all("encoding: cp1252" in line for line in lines)


def rows_with(labels: Sequence[Any], **more: Sequence[Any]) -> list[dict[str, Any]]:
    others = {name: [*values] for name, values in more.items()}
    return [
        {
            "text": f"Sow {n} rows.",
            "label": labels[n % len(labels)],
            **{name: values[n % len(values)] for name, values in others.items()},
        }
        for n in range(ROWS)
    ]


@pytest.mark.parametrize("head", ["language", "classes"])
def test_rows_marked_for_testing_are_scored_and_not_trained(tmp_path: Path, head: str) -> None:
    split = ["Train", "Train", "Test", "Dev"]
    write_rows(tmp_path / "r.jsonl", rows_with(["a", "b", "b"], split=split))
    with pytest.raises(
        DataError, match=r"'split' of r\.jsonl says which rows are for testing"
    ) as c:
        prepare(tmp_path, head, train="r.jsonl")
    assert "'Train' (12), 'Dev' (6) and 'Test' (6)" in str(c.value)
    both, every = (strict_yaml.parse(line)[0] for line in lines_of(c.value.fix))
    result = prepare(tmp_path, head, **both)
    assert [each.row for each in result.train] == [
        f"r.jsonl:{n + 1}" for n in range(24) if n % 4 < 2
    ]
    assert [e.example.row for e in result.eval] == [f"r.jsonl:{n + 1}" for n in range(3, 24, 4)]
    said = "r.jsonl: rows with split Train, of 'Train' (12), 'Test' (6), 'Dev' (6)"
    assert said in result.report["warnings"][0]
    assert result.report["ignored_columns"] == []
    assert len(prepare(tmp_path, head, **every).train) == 24
    # A file for the held-out rows is kept, and values that are no split say nothing.
    write_rows(tmp_path / "e.jsonl", [{"text": f"Mow {n}.", "label": "a"} for n in range(4)])
    with pytest.raises(DataError) as kept:
        prepare(tmp_path, head, train="r.jsonl", eval="e.jsonl")
    assert lines_of(kept.value.fix)[0].endswith("where: {split: Train}}, eval: e.jsonl}")
    write_rows(tmp_path / "r.jsonl", rows_with(["a", "b", "b"], split=["train", "north"]))
    assert len(prepare(tmp_path, head, train="r.jsonl").train) == 24


def test_rows_are_chosen_by_values(tmp_path: Path) -> None:
    rows = rows_with(["a", "b"], lang=["en", "de", None], n=[1, 2], ok=[True, False])
    write_rows(tmp_path / "r.jsonl", rows)
    for where, count in (
        ({"lang": "en"}, 8),
        ({"lang": ["en", "de"]}, 16),
        ({"lang": "en", "n": "1"}, 4),
        ({"ok": "true"}, 12),
    ):
        train = {"source": "r.jsonl", "where": where}
        assert len(prepare(tmp_path, train=train).train) == count
    # max_rows draws among them, and a path leads to a value.
    train = {"source": "r.jsonl", "where": {"lang": "de"}}
    drawn = prepare(tmp_path, train=train, max_rows=3).train
    assert all(int(each.row.partition(":")[2]) % 3 == 2 for each in drawn)
    assert len(drawn) == 3
    write_rows(tmp_path / "p.jsonl", [{**each, "meta": {"k": each["n"]}} for each in rows])
    train = {"source": "p.jsonl", "where": {"meta.k": "2"}}
    assert len(prepare(tmp_path, train=train).train) == 12
    with pytest.raises(DataError, match=r"no row has what .* lang: fr") as caught:
        prepare(tmp_path, train={"source": "r.jsonl", "where": {"lang": "fr"}})
    assert "lang is 'en' (8), 'de' (8), '' (8)" in str(caught.value)


@pytest.mark.parametrize("head", ["language", "classes"])
@pytest.mark.parametrize(
    ("labels", "mark"), [(["a", "b", "-", "b"], "-"), (["0", "1", "2", -1], "-1")]
)
def test_a_mark_that_there_is_no_label_is_no_class(
    tmp_path: Path, labels: list[Any], mark: str, head: str
) -> None:
    write_rows(tmp_path / "r.jsonl", rows_with(labels))
    names = {"label_names": {"0": "x", "1": "y", "2": "z"}} if mark == "-1" else {}
    with pytest.raises(DataError, match=f"'{mark}' of 6 of 24 rows of r.jsonl says that") as caught:
        prepare(tmp_path, head, train="r.jsonl", **names)
    keys = strict_yaml.parse(lines_of(caught.value.fix)[0])[0]
    result = prepare(tmp_path, head, **{**names, **keys})
    assert len(result.train) == 18
    assert mark not in result.labels
    # As a class, where the recipe says so; -1 may be one of three, and a minus is next to a plus.
    listed = [str(each) for each in dict.fromkeys(labels)]
    assert len(prepare(tmp_path, head, train="r.jsonl", labels=listed).train) == 24
    for classes in ([-1, 0, 1], ["+", "-", "0"]):
        write_rows(tmp_path / "r.jsonl", rows_with(classes))
        assert len(prepare(tmp_path, "classes", train="r.jsonl").labels) == 3


@pytest.mark.parametrize("head", ["language", "classes"])
def test_one_label_in_several_spellings(tmp_path: Path, head: str) -> None:
    write_rows(tmp_path / "r.jsonl", rows_with(["Spam", "spam ", "Spam", "ham"]))
    said = r"white space only: 'Spam' \(12\) and 'spam ' \(6\)"
    with pytest.raises(DataError, match=said) as caught:
        prepare(tmp_path, head, train="r.jsonl")
    names, apart = caught.value.fix.split("; if they")
    keys = strict_yaml.parse("{" + names.split("data.")[1] + "}")[0]
    one = prepare(tmp_path, head, train="r.jsonl", **keys)
    assert set(one.labels) == {"Spam", "ham"}
    assert "label is one of 2 labels" in look(Path("r.jsonl"), tmp_path).understood
    if head == "language":
        assert {answer for _, answer in asked(one)} == {"Spam", "ham"}
    keys = strict_yaml.parse("{" + apart.split("data.")[1] + "}")[0]
    assert len(prepare(tmp_path, head, train="r.jsonl", **keys).labels) == 3


@pytest.mark.parametrize("head", ["language", "classes"])
def test_held_out_rows_without_labels(tmp_path: Path, head: str) -> None:
    write_rows(tmp_path / "r.jsonl", rows_with(["a", "b"]))
    held = [{"text": f"Mow {n}.", "verdict": "ab"[n % 2], "id": n} for n in range(12)]
    write_rows(tmp_path / "e.jsonl", [{"text": each["text"]} for each in held])
    with pytest.raises(DataError, match=r"held-out rows of e\.jsonl have no labels") as caught:
        prepare(tmp_path, head, train="r.jsonl", eval="e.jsonl")
    assert "data.eval: {source: e.jsonl, columns: {label: COLUMN}}" in caught.value.fix
    write_rows(tmp_path / "e.jsonl", held)
    source = {"source": "e.jsonl", "columns": {"label": "verdict"}}
    assert len(prepare(tmp_path, head, train="r.jsonl", eval=source).eval) == 12
    if head == "language":
        text = {"source": "e.jsonl", "template": "text"}
        assert prepare(tmp_path, train="r.jsonl", eval=text).eval


@pytest.mark.parametrize("head", ["language", "classes"])
def test_held_out_rows_whose_labels_are_empty(tmp_path: Path, head: str) -> None:
    """These are the held-out rows' fault, not rows to leave out."""
    write_rows(tmp_path / "r.jsonl", rows_with(["a", "b"]))
    write_rows(tmp_path / "e.jsonl", rows_with(["", None]))
    said = r"held-out rows of e\.jsonl have no labels\n.*'label' is empty in each of 24 rows"
    for keys in ({}, {"template": "classification"}):
        with pytest.raises(DataError, match=said) as caught:
            prepare(tmp_path, head, train="r.jsonl", eval="e.jsonl", **keys)
        assert "data.eval: 0.1 (or 0, for none)" in caught.value.fix
        assert prepare(tmp_path, head, train="r.jsonl", eval=0.1, **keys).eval


@pytest.mark.parametrize("head", ["language", "classes"])
@pytest.mark.parametrize("between", ["; ", ",", " | ", "、"])
def test_several_labels_in_one_cell(tmp_path: Path, head: str, between: str) -> None:
    both = f"a{between}b"
    write_rows(tmp_path / "r.jsonl", rows_with(["a", "b", both, "Cork, Eire"]))
    with pytest.raises(DataError, match=r"several labels in one cell of 'label': '.*' \(6\)") as c:
        prepare(tmp_path, head, train="r.jsonl")
    keys = strict_yaml.parse(lines_of(c.value.fix)[0])[0]
    assert set(prepare(tmp_path, head, **keys).labels) == {"a", "b", "Cork, Eire"}
    keys = strict_yaml.parse("{" + c.value.fix.split("data.")[-1] + "}")[0]
    assert both in prepare(tmp_path, head, train="r.jsonl", **keys).labels


def test_answers_that_are_none_of_the_labels_are_counted(tmp_path: Path) -> None:
    write_rows(tmp_path / "r.jsonl", rows_with(["a", "b", "c"]))
    result = prepare(tmp_path, train="r.jsonl", labels=["a", "b"])
    said = "8 rows with an answer that is none of the labels: learned as well"
    assert said in result.report["warnings"]


@pytest.mark.parametrize("answers", [("no", "yes"), (0, 1, 2)])
def test_a_head_learns_the_answers_that_repeat(tmp_path: Path, answers: Any) -> None:
    rows = [{"prompt": f"Sow {n}?", "completion": answers[n % len(answers)]} for n in range(ROWS)]
    write_rows(tmp_path / "r.jsonl", rows)
    result = prepare(tmp_path, "classes", train="r.jsonl", template="prompt_completion")
    assert result.labels == tuple(map(str, answers))
    write_rows(tmp_path / "r.jsonl", [{**row, "completion": row["prompt"]} for row in rows])
    with pytest.raises(TunerError, match="needs to know the classes"):
        prepare(tmp_path, "classes", train="r.jsonl", template="prompt_completion")
