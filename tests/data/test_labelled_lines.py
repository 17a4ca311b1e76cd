"""Text files with a label in each line: the line of recipe that is offered first reads both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.test_labelled_files import CROPS, asked, led_on, prepare
from tuner.data.look import look
from tuner.errors import DataError

COUNT = 24
WORDS = ("early", "late")


def write(folder: Path, line: str, *before: str) -> None:
    """Write lines: {} is a crop, {n} the number, {label} and {no} the label as word and number."""
    lines = [
        line.replace("{}", CROPS[n % len(CROPS)])
        .replace("{n}", str(n))
        .replace("{label}", WORDS[n % 2])
        .replace("{no}", str(n % 2))
        for n in range(COUNT)
    ]
    (folder / "f.txt").write_text("\n".join([*before, *lines]) + "\n")


@pytest.mark.parametrize(
    ("line", "before"),
    [
        ("{label}\tThe {} of field {n} is in.", ()),
        ("The {} of field {n} is in.\t{label}", ()),
        ("{label} ||| The {} of field {n} is in.", ()),
        ("{label}\tThe {} of field {n} is in.", ("label\tmessage",)),
    ],
)
def test_a_side_that_repeats_is_the_label(
    tmp_path: Path, line: str, before: tuple[str, ...]
) -> None:
    write(tmp_path, line, *before)
    lines, found = led_on(tmp_path, "f.txt")
    assert len(lines) == 1
    assert (found.template, found.labels) == ("classification", WORDS)
    assert asked(found)[:2] == [
        ("The oats of field 0 is in.", "early"),
        ("The flax of field 1 is in.", "late"),
    ]
    first, _ = look(tmp_path / "f.txt", tmp_path).choices({"train": "f.txt"})
    assert first.line({}).endswith(lines[0].partition("f.txt")[2])


def test_numbers_as_labels_come_with_both_ways_to_learn_them(tmp_path: Path) -> None:
    write(tmp_path, "{no}\tThe {} of field {n} is in.")
    with pytest.raises(DataError, match="as texts with a label, or as plain text") as caught:
        prepare(tmp_path, train="f.txt")
    assert 'labels: ["0", "1"], to learn the numbers' in caught.value.fix


def test_lines_that_begin_with_their_labels_are_read_as_such(tmp_path: Path) -> None:
    """As fastText writes them; a line without a label is a bad row."""
    write(tmp_path, "__label__{label} The {} of field {n} is in.")
    lines, found = led_on(tmp_path, "f.txt")
    assert lines == ["{train: f.txt, template: classification}"]
    assert (found.labels, found.report["rows_train"]) == (WORDS, COUNT)
    assert asked(found)[1] == ("The flax of field 1 is in.", "late")
    (tmp_path / "f.txt").open("a").write("The hay is in.\n")
    with pytest.raises(DataError, match="a row cannot be read") as caught:
        prepare(tmp_path, train="f.txt", template="classification")
    assert "line 25: no __label__NAME at its beginning" in str(caught.value)
    more = {"template": "classification", "max_bad_rows": 1}
    assert prepare(tmp_path, train="f.txt", **more).report["rows_train"] == COUNT


def test_lines_with_several_labels_are_no_class_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "__label__{label} The {} of field {n} is in.")
    (tmp_path / "f.txt").open("a").write("__label__early __label__late The hay is in.\n")
    with pytest.raises(DataError, match="several labels in one cell of 'label': 'early, late'"):
        prepare(tmp_path, train="f.txt", template="classification")


def test_a_label_in_a_few_lines_is_text(tmp_path: Path) -> None:
    write(tmp_path, "The {} of field {n} is in.", "__label__late The hay is in.")
    assert prepare(tmp_path, train="f.txt").template == "text"
