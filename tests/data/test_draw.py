"""`data.max_rows` draws rows by seed, label by label, in one pass over the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers import make_tokenizer
from tuner.data.preferences import PreferenceData
from tuner.data.prompts import PromptData
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

SORTED = [{"text": f"Guest {n}.", "label": "angry" if n < 80 else "calm"} for n in range(160)]


def pipeline(folder: Path, *of: Sequence[Any], seed: int = 7, **keys: Any) -> SftData:
    names = []
    for number, rows in enumerate(of):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{number}.jsonl").write_text(text, "utf-8")
        names.append(f"{number}.jsonl")
    data = DataSection(**{"train": names, "eval": 0, **keys})
    return SftData(Inputs(data, make_tokenizer("chatml"), folder, seed, 512))


def prepared(folder: Path, *of: Sequence[Any], **keys: Any) -> Prepared:
    return pipeline(folder, *of, **keys).prepare()


def lines(result: Prepared) -> list[int]:
    return [int(each.row.partition(":")[2]) for each in result.train]


def test_a_file_sorted_by_label_is_drawn_from_all_over(tmp_path: Path) -> None:
    """D19: both classes, half each, and the report says so."""
    result = prepared(tmp_path, SORTED, max_rows=60)
    found = lines(result)
    assert found == sorted(found)
    assert sum(n <= 80 for n in found) == 30 == sum(n > 80 for n in found)
    (file,) = result.report["files"]
    assert (file["rows"], file["drawn_from"]) == (60, 160)
    assert file["drawn_labels"] == {"angry": 30, "calm": 30}
    assert lines(prepared(tmp_path, SORTED, max_rows=60)) == found
    assert lines(prepared(tmp_path, SORTED, max_rows=60, seed=8)) != found
    assert lines(prepared(tmp_path, SORTED, max_rows=60, draw="first")) == [*range(1, 61)]
    every = prepared(tmp_path, SORTED, max_rows=500)
    assert lines(every) == [*range(1, 161)]
    assert "drawn_from" not in every.report["files"][0]


def test_a_rare_label_is_drawn(tmp_path: Path) -> None:
    """D19"""
    rows = [*SORTED, {"text": "Guest 160.", "label": "sad"}]
    drawn = prepared(tmp_path, rows, max_rows=10).report["files"][0]["drawn_labels"]
    assert drawn["sad"] == 1
    assert sum(drawn.values()) == 10


@pytest.mark.parametrize("keys", [{}, {"labels": ["yes", "no"]}])
def test_rows_without_a_label_column_are_drawn(tmp_path: Path, keys: dict[str, Any]) -> None:
    rows = [{"prompt": f"Ask {n}", "completion": "yes" if n < 90 else "no"} for n in range(100)]
    found = lines(prepared(tmp_path, rows, max_rows=20, **keys))
    assert len(found) == 20
    assert max(found) > 20
    if keys:
        assert sum(n > 90 for n in found) == 2


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        ({"labels": ["true", "false"]}, {"text": "Guest {}"}),
        ({"labels": ["yes", "no"]}, {"question": "Is guest {} in?"}),
    ],
)
def test_true_and_false_are_the_labels_that_they_are_written_as(
    tmp_path: Path, keys: dict[str, Any], row: dict[str, str]
) -> None:
    (asked, text), answer = *row.items(), "label" if "text" in row else "answer"
    rows = [{asked: text.format(n), answer: n < 90} for n in range(100)]
    result = prepared(tmp_path, rows, max_rows=20, **keys)
    assert [*result.report["files"][0]["drawn_labels"].values()] in ([2, 18], [18, 2])


def test_several_files_are_drawn_from_in_proportion(tmp_path: Path) -> None:
    others = [{"prompt": f"Ask {n}", "completion": "Yes."} for n in range(40)]
    result = prepared(tmp_path, SORTED, others, max_rows=50)
    assert [file["rows"] for file in result.report["files"]] == [40, 10]
    own = [{"source": "0.jsonl", "rows": 40}, "1.jsonl"]
    result = prepared(tmp_path, SORTED, others, train=own, max_rows=40)
    first, second = result.report["files"]
    assert (first["rows"], second["rows"]) == (20, 20)
    assert first["drawn_labels"] == {"angry": 10, "calm": 10}
    result = prepared(tmp_path, SORTED, others, train=own)
    assert [file["rows"] for file in result.report["files"]] == [40, 40]


def test_texts_in_the_place_of_labels_are_drawn_in_little_memory(tmp_path: Path) -> None:
    rows = [{"text": f"T{n}", "label": f"said {n}"} for n in range(300)]
    result = prepared(tmp_path, rows, max_rows=30)
    assert len(result.train) == 30
    assert max(lines(result)) > 100


def test_bad_rows_count_once(tmp_path: Path) -> None:
    rows = [*SORTED[:70], ["no row"], *SORTED[70:]]
    result = prepared(tmp_path, rows, max_rows=40, max_bad_rows=1)
    assert len(result.report["skipped"]) == 1
    with pytest.raises(DataError, match="a row cannot be read"):
        prepared(tmp_path, rows, max_rows=40)


def test_prompts_are_drawn_as_well(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {n}"} for n in range(50)]
    made = pipeline(tmp_path, rows, max_rows=10)
    found = PromptData(made.inputs, 20).prepare()
    assert len(found.train) == 10
    assert max(int(each.row.partition(":")[2]) for each in found.train) > 10


def test_liked_and_disliked_answers_to_a_prompt_are_drawn_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Ask {n % 30}", "completion": f"Said {n}", "label": n < 30} for n in range(60)
    ]
    made = pipeline(tmp_path, rows, max_rows=20)
    found = PreferenceData(made.inputs).prepare()
    assert len(found.train) == 10
    assert found.report["unpaired_rows"] == 0
