"""Which column of a table is offered as the label, and what is offered with the text: nothing that
names a row, remarks on it, or gives the label away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.test_labelled_files import ROWS, asked, prepare, table
from tests.tools.sets_table import lines_of
from tuner.data.columns.accounting import number_rows
from tuner.data.columns.evidence import Evidence
from tuner.data.look import look
from tuner.errors import DataError
from tuner.schema import strict_yaml

TEXT = "The {} of field {n} came in late."
FINE = ("spring rye", "winter rye", "red flax", "blue flax")
COARSE = ("rye", "rye", "flax", "flax")
# Header, cells, the columns of the first offer, and what no offer reads.
OFFERED: dict[str, tuple[str, list[Any], str, tuple[str, ...]]] = {
    "an id, and a class that never changes": (
        "qid|category|title|desc|answer",
        ["q_{n}", "farms", "When is {} {n} sown?", ("", "It is wet."), "In week {n}."],
        "context: desc, question: title",
        ("qid", "label: category"),
    ),
    "ids of letters and numbers": (
        "ticket|words|queue",
        ["AB-{n}", TEXT, ("north", "south", "east")],
        "text: words, label: queue",
        ("ticket",),
    ),
    "remarks": (
        "id|clause|risk|comment",
        ["{n}", TEXT, ("high", "low", "none"), ("Odd.", "Ask.", "See annex.")],
        "text: clause, label: risk, comment: none",
        ("text: comment", "label: comment", "answer: comment"),
    ),
    "remarks in German": (
        "Nr.|Satz|Sparte|Bemerkung",
        ["{n}", TEXT, ("Roggen", "Hafer", "Mais"), ("", "siehe Anlage", "", "ok")],
        "text: Satz, label: Sparte, Bemerkung: none",
        (": Bemerkung", "Bemerkung +"),
    ),
    "a coarse label": (
        "Words|Level 1|Level 2",
        [TEXT, COARSE, FINE],
        "text: Words, label: Level 2, Level 1: none",
        ("Level 1 +", "Level 2 +"),
    ),
    "stars": (
        "review_id|stars|text|useful|funny",
        ["r{n}", ("1", "2", "5"), TEXT, ("0", "3", "1"), ("0", "0", "1")],
        "label: stars, useful: none, funny: none",
        ("review_id",),
    ),
    "labels that some rows lack": (
        "row|words|Crop kind",
        ["{n}", TEXT, ("oats", "", "hops", "rye", "oats", "hops", "rye", "rye")],
        "text: words, label: Crop kind",
        (),
    ),
}


@pytest.mark.parametrize("name", OFFERED)
def test_the_first_offer_is_the_task_of_the_file(tmp_path: Path, name: str) -> None:
    header, cells, columns, never = OFFERED[name]
    table(tmp_path, "t.csv", header, *cells)
    found = look(Path("t.csv"), tmp_path)
    assert found.error is not None
    lines = lines_of(found.error.fix)
    assert f"columns: {{{columns}}}" in lines[0]
    offered = "\n".join(line for line in lines if "template" in line)
    assert not [each for each in never if each in offered]
    numbers = {"label_names": {"1": "bad", "2": "fair", "5": "good"}} if name == "stars" else {}
    result = prepare(tmp_path, **strict_yaml.parse(lines[0])[0], **numbers)
    assert len(result.train) == (21 if "lack" in name else ROWS)
    assert ("max_bad_rows: 3" in lines[0]) == ("lack" in name)
    assert not any("q_" in question or "AB-" in question for question, _ in asked(result))


def test_flags_that_are_set_together_are_offered_in_their_order(tmp_path: Path) -> None:
    cells = ["{n}", TEXT, ("1", "0", "0", "1"), ("1", "0", "0", "0"), ("0", "1", "0", "0")]
    table(tmp_path, "t.csv", "id|words|wet|cold|late", *cells)
    found = look(Path("t.csv"), tmp_path)
    assert found.error is not None
    assert [way.columns["label"] for way in found.ways] == ["wet", "cold", "late"]
    assert "6 of 24 rows set several of wet, cold and late: each way" in found.error.fix
    assert 'label_names: {"0": not wet, "1": wet}' in found.error.fix
    every, keys = (strict_yaml.parse(line)[0] for line in lines_of(found.error.fix)[:2])
    assert every["multi_label"] == "true"
    # Of cold, late and wet.
    goals = [each.goals for each in prepare(tmp_path, "classes", **every).train]
    assert goals[:4] == [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)]
    result = prepare(tmp_path, **keys, label_names={"0": "not wet", "1": "wet"})
    assert [answer for _, answer in asked(result)][:4] == ["wet", "not wet", "not wet", "wet"]


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("qid", [f"q_{n}" for n in range(12)], True),
        ("code", [f"AB-{n:03}" for n in range(12)], True),
        ("docid", [f"{n}f{n}" for n in range(12)], True),
        ("word", [f"{n}f{n}" for n in range(12)], False),
        ("qid", [f"q_{n // 2}" for n in range(12)], False),
        ("qid", [f"What is {n}?" for n in range(12)], False),
        ("qid", ["q_1", "q_2"], False),
    ],
)
def test_what_numbers_the_rows(name: str, values: list[str], found: bool) -> None:
    assert number_rows(Evidence([{name: value} for value in values]), name) is found


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("late",), "the label is the same in every training row: 'late'"),
        (tuple(f"kind {n}" for n in range(ROWS)), "24 different labels in 24 training rows: they"),
        (("late", "early"), ""),
    ],
)
def test_labels_that_are_none_are_the_first_warning(
    tmp_path: Path, labels: tuple[str, ...], said: str
) -> None:
    table(tmp_path, "t.csv", "text|label|url", TEXT, labels, "https://a.test/{n}")
    result = prepare(tmp_path, train="t.csv")
    warnings = result.report["warnings"]
    assert "".join(warnings[:1]).startswith(said)
    assert any("label is the same" in each or "hardly" in each for each in warnings) == bool(said)


def test_a_file_of_label_names_is_answered_with_the_labels_to_name(tmp_path: Path) -> None:
    table(tmp_path, "t.csv", "text|label", TEXT, ("0", "1", "10", "2"))
    with pytest.raises(DataError, match=r"'names\.json' is called like a file") as caught:
        prepare(tmp_path, train="t.csv", label_names="names.json")
    fix = caught.value.fix
    assert fix.endswith('{"0": NAME, "1": NAME, "2": NAME, "10": NAME}')
    names = strict_yaml.parse("{n" + fix.partition("data.label_n")[2] + "}")[0]
    named = {label: f"kind {label}" for label in next(iter(names.values()))}
    assert prepare(tmp_path, train="t.csv", label_names=named).labels[3] == "kind 10"
    with pytest.raises(DataError, match="the labels are numbers") as caught:
        prepare(tmp_path, train="t.csv")
    assert "{0: its name, 1: its name, 2: its name, 10: its name}" in caught.value.fix


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("Yes", "No"), "label is yes or no"),
        (("对", "错"), "label is 对 or 错"),
        (("true", "false"), "label is true or false"),
    ],
)
def test_truths_are_called_as_the_file_writes_them(
    tmp_path: Path, labels: tuple[str, ...], said: str
) -> None:
    table(tmp_path, "t.csv", "text|label", TEXT, labels)
    assert said in look(Path("t.csv"), tmp_path).understood


def test_a_name_that_is_twice_in_a_header_is_to_be_changed_there(tmp_path: Path) -> None:
    table(tmp_path, "t.csv", "text|label|text", TEXT, ("a", "b"), "Other {n}.")
    with pytest.raises(DataError, match="none of the 24 rows") as caught:
        prepare(tmp_path, train="t.csv")
    assert caught.value.fix == "give each column of the header a name of its own, in the file"
    lines = (tmp_path / "t.csv").read_text().replace("text,label,text", "text,label,more")
    (tmp_path / "t.csv").write_text(lines)
    assert prepare(tmp_path, train="t.csv", columns={"more": "none"}).labels == ("a", "b")
