"""Rows of a text and its label: the label's own words are the answer, and nothing is added."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from tests.tokenizers import make_tokenizer
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, RecipeError
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import load as recipe_load
from tuner.recipe.schema import DataSection

BANK, INSURER = "The bank raised its forecast.", "Shares of the insurer fell by a tenth."
NEWS = [{"text": BANK, "label": "positive"}, {"text": INSURER, "label": "negative"}]


def prepared(
    folder: Path, rows: Sequence[Any], kind: str = "chatml", head: str = "language", **keys: Any
) -> Prepared:
    """Prepare rows written to a file of the folder."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, "utf-8")
    data = DataSection(**({"train": ["rows.jsonl"], "eval": 0} | keys))
    tokenizer = make_tokenizer(kind)
    if head == "classes":
        tokenizer.eos_token = tokenizer.sep_token
    return SftData(Inputs(data, tokenizer, folder, 7, 512), head).prepare()


def learned(example: Any, kind: str = "chatml") -> str:
    pairs = zip(example.input_ids, example.supervised, strict=True)
    return str(make_tokenizer(kind).decode([index for index, flag in pairs if flag]))


def test_no_word_is_added_to_text_and_label(tmp_path: Path) -> None:
    """Financial news is not "a great movie"; the label is what is learned."""
    result = prepared(tmp_path, NEWS)
    assert result.template == "classification"
    asked, answered = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    decode = make_tokenizer("chatml").decode
    for example, row in zip(result.train, NEWS, strict=True):
        expected = f"{asked}{row['text']}{answered}{row['label']}<|im_end|>\n"
        assert decode(example.input_ids) == expected
        assert learned(example) == f"{row['label']}<|im_end|>"


def test_as_plain_text_the_label_has_a_line_of_its_own(tmp_path: Path) -> None:
    example = prepared(tmp_path, NEWS, "bos", render="raw").train[0]
    assert make_tokenizer("bos").decode(example.input_ids) == f"<s>{BANK}\npositive</s>"
    assert learned(example, "bos") == "positive</s>"


def test_a_classifier_reads_the_text_alone(tmp_path: Path) -> None:
    """The classes are the labels of the rows where the recipe lists none."""
    result = prepared(tmp_path, NEWS, "encoder", "classes")
    assert result.labels == ("negative", "positive")
    texts = [make_tokenizer("encoder").decode(example.input_ids) for example in result.train]
    assert texts == [f"[CLS]{BANK}[SEP]", f"[CLS]{INSURER}[SEP]"]
    assert [example.label for example in result.train] == [1, 0]
    listed = prepared(tmp_path, NEWS, "encoder", "classes", labels=["positive", "negative"])
    assert [example.label for example in listed.train] == [0, 1]


def test_an_encoder_decoder_writes_the_label(tmp_path: Path) -> None:
    result = prepared(tmp_path, NEWS, "seq2seq", "sequence")
    decode = make_tokenizer("seq2seq").decode
    assert [decode(example.target) for example in result.train] == ["positive</s>", "negative</s>"]


@pytest.mark.parametrize(
    ("labels", "written"),
    [
        (("物流", "质量"), ["物流", "质量"]),
        ((True, False), ["true", "false"]),
        (("Pos", "neg itself"), ["Pos", "neg itself"]),
    ],
)
def test_labels_in_their_own_words(tmp_path: Path, labels: Any, written: list[str]) -> None:
    rows = [{"text": f"第 {n} 句", "label": label} for n, label in enumerate(labels)]
    result = prepared(tmp_path, rows)
    assert [learned(example) for example in result.train] == [f"{w}<|im_end|>" for w in written]
    assert set(result.labels) == set(written)


def test_a_column_of_another_name_is_mapped(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "sentiment": row["label"]} for row in NEWS]
    result = prepared(tmp_path, rows, columns={"label": "sentiment"})
    assert (result.template, result.report["ignored_columns"]) == ("classification", [])
    assert prepared(tmp_path, rows).template == "classification"
    with pytest.raises(RecipeError, match="needs labels, but the rows have none") as caught:
        prepared(tmp_path, [{"text": row["text"]} for row in rows], "encoder", "classes")
    assert "data.columns: {label: " in caught.value.fix


@pytest.mark.parametrize("numbers", [(1, 0, 10, 9), ("1", "0", "10", "9")])
def test_class_numbers_are_not_answers_unless_the_recipe_lists_them(
    tmp_path: Path, numbers: tuple[Any, ...]
) -> None:
    """For a head they are classes, in their own order."""
    rows = [{"text": f"a {n}", "label": number} for n, number in enumerate(numbers)]
    with pytest.raises(DataError, match="the labels are numbers, not words: 0, 1, 9, 10") as caught:
        prepared(tmp_path, rows)
    assert "model.task: classification" in caught.value.fix
    listed = prepared(tmp_path, rows, labels=["0", "1", "9", "10"])
    assert learned(listed.train[2]) == "10<|im_end|>"
    classes = prepared(tmp_path, rows, "encoder", "classes")
    assert classes.labels == ("0", "1", "9", "10")
    assert [example.label for example in classes.train] == [1, 0, 3, 2]


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [((1, 0), ("0", "1"), [1, 0]), ((True, False), ("true", "false"), [0, 1])],
)
def test_listed_numbers_are_read_through_any_template(
    tmp_path: Path, values: tuple[Any, Any], labels: tuple[str, str], classes: list[int]
) -> None:
    """They need not be text in the file, but they must be among the labels."""
    rows = [{"text": f"a {n}", "label": value} for n, value in enumerate(values)]
    keys = {"template": "prompt_completion", "columns": {"prompt": "text", "completion": "label"}}
    result = prepared(tmp_path, rows, "encoder", "classes", labels=labels, **keys)
    assert [example.label for example in result.train] == classes
    with pytest.raises(DataError, match="1 row cannot be used for training"):
        prepared(tmp_path, [*rows, {"text": "x", "label": 7}], labels=labels, **keys)


def test_label_accuracy_chooses_among_the_labels_of_the_rows(tmp_path: Path) -> None:
    rows = [{"text": f"Scene {n} was long.", "label": ["dull", "fine"][n % 2]} for n in range(12)]
    result = prepared(tmp_path, rows, eval=4)
    assert result.labels == ("dull", "fine")
    assert result.report["labels"] == ["dull", "fine"]
    for row in result.eval:
        assert row.gold is not None
        assert row.options[row.gold] == row.example
        assert [learned(option) for option in row.options] == ["dull<|im_end|>", "fine<|im_end|>"]
    free = [{"text": f"Scene {n}.", "label": f"note {n}"} for n in range(12)]
    assert prepared(tmp_path, free, eval=4).labels == ()


def test_the_plan_shows_the_labels_it_found(make_recipe: Callable[..., Path]) -> None:
    rows = [{"text": f"Scene {n}.", "label": ["dull", "fine"][n % 2]} for n in range(12)]
    recipe = make_recipe(data_rows=rows, data={"template": "auto", "eval": 4})
    made = make.make(recipe_load.load(recipe, verb="sft"), hardware.detect(), output=Path("none"))
    assert made.values["data.labels"].value == ["dull", "fine"]
    assert made.values["data.template"].value == "classification"
    assert "label_accuracy" in made.metrics


def test_the_preview_shows_the_class(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", NEWS)
    tokenizer = make_tokenizer("encoder")
    tokenizer.eos_token = tokenizer.sep_token
    data = DataSection(train=("rows.jsonl",), eval=0)
    _, (shown,) = SftData(Inputs(data, tokenizer, tmp_path, 1, 64), "classes").preview(1)
    assert "".join(part.text for part in shown.parts[:-1]) == f"[CLS]{BANK}[SEP]"
    assert [part.text for part in shown.parts if part.learned] == ["positive"]
    with pytest.raises(RecipeError, match="one label only: positive"):
        prepared(tmp_path, NEWS[:1], "encoder", "classes")


TICKETS = [
    {"text": f"Ticket {n}", "label": 100 + n % 3, "label_desc": ["post", "bill", "rest"][n % 3]}
    for n in range(12)
]


def test_label_names_are_learned_in_place_of_numbers(tmp_path: Path) -> None:
    """By a mapping, or by the column that has them; a head keeps the order of the numbers."""
    named = {"100": "post", "101": "bill", "102": "rest"}
    for names in (named, "label_desc"):
        result = prepared(tmp_path, TICKETS, label_names=names)
        assert result.labels == ("post", "bill", "rest")
        assert [learned(each) for each in result.train[:2]] == ["post<|im_end|>", "bill<|im_end|>"]
        classes = prepared(tmp_path, TICKETS, "encoder", "classes", label_names=names)
        assert classes.labels == ("post", "bill", "rest")
        assert [example.label for example in classes.train[:4]] == [0, 1, 2, 0]
    assert result.report["ignored_columns"] == []
    other = {"label_names": named, "labels": ["102", "100", "101"]}
    assert prepared(tmp_path, TICKETS, **other).labels == ("rest", "post", "bill")


def test_number_labels_are_offered_the_column_of_their_names(tmp_path: Path) -> None:
    """Its fix works as printed; a column that says something else of each row is not offered."""
    rows = [{**row, "clerk": f"Ann {n}"} for n, row in enumerate(TICKETS)]
    with pytest.raises(DataError, match="'label_desc' and 'clerk' look like part of the task"):
        prepared(tmp_path, rows)
    unused = {"columns": {"label_desc": "none", "clerk": "none"}}
    with pytest.raises(DataError, match="the labels are numbers") as caught:
        prepared(tmp_path, rows, **unused)
    assert caught.value.fix.startswith("data.label_names: label_desc,")
    assert "clerk" not in caught.value.fix
    assert "data.label_names: {100: its name, 101: its name, 102: its name" in caught.value.fix


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        ({"100": "post", "101": "bill"}, DataError, "1 row|4 rows"),
        ({"100": "post", "101": "post", "102": "rest"}, RecipeError, "two labels have the name"),
        ("label_text", DataError, "has no column 'label_text'"),
        ("text", DataError, "two names for the label 100"),
    ],
)
def test_label_names_that_do_not_fit(
    tmp_path: Path, names: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        prepared(tmp_path, TICKETS, label_names=names)


def test_labels_auto_reads_the_answers_of_any_template(tmp_path: Path) -> None:
    """Also numbers that a file has as numbers; texts that hardly repeat are refused."""
    keys = {"template": "prompt_completion", "columns": {"prompt": "text", "completion": "label"}}
    rows = [{"text": f"a {n}", "label": n % 2 == 0} for n in range(8)]
    result = prepared(tmp_path, rows, labels="auto", **keys)
    assert result.labels == ("false", "true")
    assert result.report["labels"] == ["false", "true"]
    assert prepared(tmp_path, [{**row, "label": "x"} for row in rows], **keys).labels == ()
    many = [{"text": f"a {n}", "label": f"class {n // 2}"} for n in range(160)]
    assert len(prepared(tmp_path, many, labels="auto").labels) == 80
    assert prepared(tmp_path, many).labels == ()
    free = [{"text": f"a {n}", "label": f"note {n}"} for n in range(8)]
    with pytest.raises(DataError, match="8 different answers in 8 rows"):
        prepared(tmp_path, free, labels="auto")
    with pytest.raises(RecipeError, match="labels: auto needs labels"):
        prepared(tmp_path, [{"text": "x"}], labels="auto")


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (True, "true"), (2.0, "2"), (0.5, "0.5"), ("1", "1")]
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_head_takes_numbers_in_any_column_of_answers(
    tmp_path: Path, value: Any, text: str, listed: bool
) -> None:
    """Whole numbers, true and false, listed or not, as JSON has them."""
    rows = [{"text": f"a {n}", "label": [value, 0][n % 2]} for n in range(4)]
    keys = {"template": "prompt_completion", "columns": {"prompt": "text", "completion": "label"}}
    keys["labels"] = ["0", text] if listed else "auto"
    result = prepared(tmp_path, rows, "encoder", "classes", **keys)
    assert result.labels == ("0", text)
    assert [example.label for example in result.train] == [1, 0, 1, 0]


def test_numbers_of_a_table_and_of_yaml_are_labels(make_recipe: Callable[..., Path]) -> None:
    """`labels: [0, 1]` as YAML has it, and integers as Parquet has them."""
    import pyarrow
    from pyarrow import parquet

    rows = [{"text": f"Scene {n}.", "label": n % 2} for n in range(12)]
    recipe = make_recipe("bert", data={"template": "auto", "eval": 4, "labels": [0, 1]})
    parquet.write_table(pyarrow.Table.from_pylist(rows), recipe.parent / "rows.parquet")
    loaded = recipe_load.load(
        recipe, ["data.train=rows.parquet", "model.task=classification"], verb="sft"
    )
    made = make.make(loaded, hardware.detect(), output=Path("none"))
    assert made.prepared.labels == ("0", "1")
    assert sum(made.facts["data"]["label_counts"].values()) == 8


def test_a_label_that_only_held_out_rows_have(tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text('{"text": "The tide.", "label": "neutral"}\n', "utf-8")
    for kind, head in (("chatml", "language"), ("encoder", "classes")):
        rows = [{"text": f"{n}", "label": ["fall", "rise"][n % 2]} for n in range(8)]
        with pytest.raises(DataError, match="is in no training row: 'neutral'") as caught:
            prepared(tmp_path, rows, kind, head, eval="held.jsonl")
        assert "held.jsonl:1" in caught.value.what
        more = [*rows, {"text": "x", "label": "neutral"}]
        assert len(prepared(tmp_path, more, kind, head, eval="held.jsonl").eval) == 1
    listed = prepared(tmp_path, rows, eval="held.jsonl", labels=["fall", "rise", "neutral"])
    assert "labels that no training row has: neutral" in listed.report["warnings"]


def test_the_report_counts_labels(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "label": "rise" if n % 4 else "fall"} for n in range(40)]
    report = prepared(tmp_path, rows, eval=10).report
    train, held = report["label_counts"], report["eval_label_counts"]
    assert (train["fall"] + held["fall"], train["rise"] + held["rise"]) == (10, 30)
    assert sum(held.values()) == 10
    assert (report["majority_label"], report["rarest_label"]) == ("rise", "fall")
    assert report["majority_baseline"] == held["rise"] / 10
    assert prepared(tmp_path, rows).report["majority_baseline"] == 0.75


def test_the_plan_shows_the_counts(
    make_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from tuner.cli import show_plan
    from tuner.console.console import Console

    rows = [{"text": f"Scene {n}.", "label": "fine" if n % 4 else "dull"} for n in range(16)]
    recipe = make_recipe(data_rows=rows, data={"template": "auto", "eval": 0})
    made = make.make(recipe_load.load(recipe, verb="sft"), hardware.detect(), output=Path("none"))
    show_plan.plan(made, Console())
    shown = " ".join(capsys.readouterr().out.split())
    assert "labels fine 12, dull 4; always answering 'fine' is right in 75.0 % of" in shown
    assert "of the training rows; rarest: 'dull' (4 rows)" in shown
