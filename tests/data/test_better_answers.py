"""Files of preferences whose order is easily taken for its opposite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import write_rows
from tests.tokenizers import make_tokenizer
from tuner.data.columns.evidence import Evidence
from tuner.data.look import look
from tuner.data.preferences import PreferenceData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

Rows = list[dict[str, Any]]


def pipeline(folder: Path, rows: Rows, **keys: Any) -> PreferenceData:
    write_rows(folder / "rows.jsonl", rows)
    data = DataSection(train=("rows.jsonl",), eval=0, **keys)
    return PreferenceData(Inputs(data, make_tokenizer("chatml"), folder, 7, 512))


def better(folder: Path, rows: Rows, **keys: Any) -> list[str]:
    """The text of each prompt's best answer."""
    return [str(row.texts[row.pairs[0][0]]) for row in prepared(folder, rows, **keys).train]


def prepared(folder: Path, rows: Rows, **keys: Any) -> Prepared:
    return pipeline(folder, rows, **keys).prepare()


@pytest.mark.parametrize(
    "values", [(-2, 2), (-1, 1), (-3, -2, -1, 0, 1, 2, 3), (1, 4, 7), ("-1", "+2"), (0.5, -0.5)]
)
def test_a_scale_does_not_name_the_better_answer(tmp_path: Path, values: tuple[Any, ...]) -> None:
    """Of -2 and 2, both would else be answer 2; no advice leaves some rows in reverse."""
    rows = [
        {
            "prompt": f"Ask {n}",
            "response1": f"one {n}",
            "response2": f"two {n}",
            "preference": value,
        }
        for n, value in enumerate(values * 2)
    ]
    with pytest.raises(DataError, match="holds a scale, and not which of two answers") as caught:
        prepared(tmp_path, rows)
    assert "max_bad_rows" not in str(caught.value)
    named = [{**row, "won": "tie" if n % 3 else 1} for n, row in enumerate(rows)]
    found = better(tmp_path, named, columns={"winner": "won", "preference": "none"})
    assert {text.partition(" ")[0] for text in found} == {"one"}


@pytest.mark.parametrize("name", ["ranks", "排名", "ranking"])
def test_ranks_next_to_the_answers_order_them(tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": f"Ask {n}", "answers": ["bad", "good", "mid"], name: [3, 1, 2]} for n in (1, 2)
    ]
    keys: dict[str, Any] = {}
    if name == "ranking":
        with pytest.raises(
            DataError, match="part of the task would not be used: ranking"
        ) as caught:
            prepared(tmp_path, rows)
        assert "data.columns: {ranks: ranking}" in caught.value.fix
        assert "none" not in caught.value.fix
        keys = {"columns": {"ranks": "ranking"}}
    assert better(tmp_path, rows, **keys) == ["good", "good"]
    with pytest.raises(DataError, match="the number of ranks is not the number of answers"):
        prepared(tmp_path, [{**row, name: [1, 2]} for row in rows], **keys)


def test_a_column_for_each_winner_and_one_for_ties(tmp_path: Path) -> None:
    """As in the arena's files; a tie makes no pair."""
    wins = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]
    rows = [
        {"prompt": f"Ask {n}", "response_a": "of a", "response_b": "of b"}
        | dict(zip(("winner_model_a", "winner_model_b", "winner_tie"), each, strict=True))
        for n, each in enumerate(wins)
    ]
    result = prepared(tmp_path, rows)
    assert result.template == "scored_pairs"
    assert better(tmp_path, rows) == ["of a", "of b", "of a"]
    assert (result.report["tied_rows"], result.report["unpaired_rows"]) == (1, 0)
    assert any("1 row left out: a tie" in text for text in result.report["warnings"])


def turns_of(ranking: Any) -> list[str]:
    return [str(message["content"]) for message in ranking.messages]


@pytest.mark.parametrize("dumped", [True, False])
def test_lists_of_texts_are_opened_turn_by_turn(tmp_path: Path, dumped: bool) -> None:
    """As in the arena's tables, of which only the last answers can be compared."""
    write = json.dumps if dumped else list
    one = {"prompt": write(["Why?"]), "response_a": write(["[1] So."]), "response_b": write(["No"])}
    two = {
        "prompt": write(["How?", "And then?"]),
        "response_a": write(["Thus.", "Rest."]),
        "response_b": write(["Thus.", "Run."]),
    }
    won = {"winner": "model_a"}
    made = prepared(tmp_path, [{**one, **won}, {**two, **won}])
    assert [turns_of(each) for each in made.train] == [["Why?"], ["How?", "Thus.", "And then?"]]
    assert [each.texts for each in made.train] == [("[1] So.", "No"), ("Rest.", "Run.")]
    odd = [
        {**two, **won, "response_b": write(["Else.", "Run."])},
        {**two, **won, "response_b": write(["Thus."])},
        {**one, **won, "response_b": "No"},
    ]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{**one, **won}, {**two, **won}, *odd])
    assert [problem.rpartition(": rows")[0] for problem in caught.value.problems] == [
        "the answers before the last ones differ, so that these cannot be compared",
        "the lists of texts do not go together: 'response_a' 2, 'response_b' 1, 'prompt' 2",
        "'response_b' is no list of texts, which it is in other rows",
    ]


def test_a_list_of_one_text_as_an_answer_is_named(tmp_path: Path) -> None:
    """It may be what is to be learned; lists of several texts are."""
    rows = [{"prompt": "Name one", "chosen": '["oak"]', "rejected": '["ox"]'}]
    with pytest.raises(DataError, match="can be read in two ways: chosen, rejected") as caught:
        prepared(tmp_path, rows)
    opened, kept = (
        yaml.safe_load(line.strip().removeprefix("data."))
        for line in caught.value.fix.splitlines()[1:]
    )
    assert better(tmp_path, rows, **opened) == ["oak"]
    assert better(tmp_path, rows, **kept) == ['["oak"]']
    several = [{**rows[0], "chosen": '["oak", "ash"]', "rejected": '["ox", "ash"]'}]
    assert better(tmp_path, several) == ['["oak", "ash"]']


def test_what_says_something_of_the_order_is_not_passed_over(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Ask {n}", "chosen": "yes", "rejected": "no", "preference_strength": 3}
        for n in range(3)
    ]
    with pytest.raises(DataError, match="would not be used: preference_strength"):
        prepared(tmp_path, rows)


def test_a_preview_says_which_answer_is_better(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Ask {n}", "responses": ["bad", "good", "mid"], "scores": [1, 3, 2]}
        for n in range(2)
    ]
    _, shown = pipeline(tmp_path, rows).preview(1)
    assert [each.row.partition(", ")[2] for each in shown] == [
        "answer 1: worse",
        "answer 2: better",
        "answer 3: better than 1, worse than 1",
    ]


def test_preferences_stay_light() -> None:
    code = (
        "import sys, tuner.data.preferences, tuner.data.prompts; "
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_file_of_thumbs_is_taken_for_no_other_task(tmp_path: Path) -> None:
    """The others would learn the thumb as an input, or leave out the answer."""
    rows = [
        {"prompt": f"Ask {n // 2}", "completion": f"Say {n}", "label": bool(n % 2)}
        for n in range(12)
    ]
    found = look(write_rows(tmp_path / "rows.jsonl", rows), tmp_path)
    assert [way.template.name for way in found.ways] == ["prompt_completion"]
    assert found.error is not None
    assert found.error.fix.startswith("learn from both kinds: tuner reward")


def test_turns_without_an_answer_are_no_way_to_read_comparisons(tmp_path: Path) -> None:
    """Without the two answers, nothing would be left to learn."""
    rows = [
        {
            "context": [{"role": "user", "content": f"Ask {n}"}],
            **{"response1": f"one {n}", "response2": f"two {n}", "overall_preference": n % 4 - 2},
        }
        for n in range(12)
    ]
    found = look(write_rows(tmp_path / "rows.jsonl", rows), tmp_path)
    assert not found.ways
    assert found.error is not None
    assert "tuner reward" in found.error.fix
    assert "response1: none" not in found.error.fix
    answered = [{**row["context"][0], "role": "assistant"} for row in rows]
    whole = [
        {**row, "context": [*row["context"], said]}
        for row, said in zip(rows, answered, strict=True)
    ]
    found = look(write_rows(tmp_path / "rows.jsonl", whole), tmp_path)
    assert found.error is not None
    assert "response1: none" in found.error.fix
    assert found.ways


def test_comparisons_by_name_are_offered_before_any_other_task(tmp_path: Path) -> None:
    rows = [
        {"task": f"Ask {n}", "big_text": f"one {n}", "tiny_text": f"two {n}", "won": won}
        for n, won in enumerate(["big", "tiny", "tie"] * 4)
    ]
    found = look(write_rows(tmp_path / "rows.jsonl", rows), tmp_path)
    assert not found.ways
    assert found.error is not None
    assert "{answer_a: big_text, answer_b: tiny_text, winner: won}" in found.error.fix


def test_thumbs_next_to_answers_of_another_name(tmp_path: Path) -> None:
    """One line of recipe reads them; rows without a thumb are counted, and are no bad rows."""
    thumbs = ["\U0001f44d", "", "\U0001f44e", None, "\U0001f44d", "\U0001f44e"]
    rows = [
        {"user_name": f"u{n}", "question": f"Ask {n % 2}", "bot_answer": f"Say {n}", "thumbs": each}
        | {"comment": "odd" if n == 1 else ""}
        for n, each in enumerate(thumbs)
    ]
    with pytest.raises(DataError, match="no column is read as the answers") as caught:
        prepared(tmp_path, rows)
    (line,) = caught.value.fix.splitlines()[1:]
    result = prepared(tmp_path, rows, columns=yaml.safe_load(line)["data.columns"])
    assert result.report["unrated_rows"] == 2
    assert any("2 rows left out: no thumb" in text for text in result.report["warnings"])
    assert result.train[0].texts == ("Say 0", "Say 2", "Say 4")
    chats = [
        {"messages": [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": said}]}
        | {"thumbs": each}
        for said, each in (("Good", 1), ("Bad", 0))
    ]
    assert better(tmp_path, chats) == ["Good"]


@pytest.mark.parametrize(("blanks", "words"), [(0, ""), (4, " that is not blank")])
def test_what_is_blank_in_some_rows_is_not_the_same_in_every_row(blanks: int, words: str) -> None:
    rows = [{"comment": "odd"}] * 16 + [{"comment": ""}] * blanks
    assert Evidence(rows).describe("comment") == f"the same in every row{words}"
