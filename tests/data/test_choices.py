"""Multiple choice: options and answers in every form that files have, and what is learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers import make_tokenizer
from tuner.data.prompts import PromptData
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import load as recipe_load
from tuner.recipe.schema import DataSection

TREES = ["oak", "larch", "palm", "fig"]
# The right one of each row, by its place.
RIGHT = [0, 3, 1, 2, 3, 0, 2, 1, 0, 3]


def write(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def inputs(folder: Path, rows: Sequence[Any], **keys: Any) -> Inputs:
    write(folder / "rows.jsonl", rows)
    data = DataSection(**({"train": ["rows.jsonl"], "eval": 0} | keys))
    return Inputs(data, make_tokenizer("chatml"), folder, 7, 1024)


def prepared(folder: Path, rows: Sequence[Any], **keys: Any) -> Prepared:
    return SftData(inputs(folder, rows, **keys)).prepare()


def turns(result: Prepared) -> list[tuple[str, str]]:
    """The prompt and the learned letter of each row, in the file's order."""
    decode = make_tokenizer("chatml").decode
    rows = sorted(result.train, key=lambda each: int(each.row.rpartition(":")[2]))
    texts = [decode(each.input_ids) for each in rows]
    parts = [text.split("<|im_end|>\n<|im_start|>assistant\n") for text in texts]
    return [
        (a.removeprefix("<|im_start|>user\n"), b.removesuffix("<|im_end|>\n")) for a, b in parts
    ]


def row(number: int, options: dict[str, Any], answer: Any) -> dict[str, Any]:
    return {"question": f"Which tree stands at mile {number}?", **options, **answer}


FORMS: dict[str, Callable[[int], dict[str, Any]]] = {
    "columns, a letter": lambda r: {**dict(zip("ABCD", TREES, strict=True)), "answer": "ABCD"[r]},
    "columns, a small letter in brackets": lambda r: {
        **{f"option_{x}": t for x, t in zip("abcd", TREES, strict=True)},
        "answer": f"({'abcd'[r]})",
    },
    "endings from 0": lambda r: {
        **{f"ending{n}": text for n, text in enumerate(TREES)},
        "label": str(r),
    },
    "options from 1": lambda r: {
        **{f"option{n}": text for n, text in enumerate(TREES, 1)},
        "answer": str(r + 1),
    },
    "a list, an index from 0": lambda r: {"choices": TREES, "answer": r},
    "a list, an index from 1": lambda r: {"choices": TREES, "answer": r + 1},
    "a list, a number as a table has it": lambda r: {"choices": TREES, "correct_idx": float(r)},
    "a list, the text": lambda r: {"options": TREES, "answer": TREES[r].upper()},
    "a list, the text in a list": lambda r: {"options": TREES, "answer": [TREES[r]]},
    "marked texts, letter and text": lambda r: {
        "options": [f"{x}. {t}" for x, t in zip("ABCD", TREES, strict=True)],
        "answer": f"{'ABCD'[r]}. {TREES[r]}",
    },
    "a mapping": lambda r: {
        "options": dict(zip("ABCD", TREES, strict=True)),
        "answer_idx": "ABCD"[r],
    },
    "a mapping by numbers": lambda r: {
        "options": {str(n): text for n, text in enumerate(TREES, 1)},
        "answer": str(r + 1),
    },
    "texts and labels": lambda r: {
        "choices": {"text": TREES, "label": ["1", "2", "3", "4"]},
        "answerKey": "1234"[r],
    },
    "labels before texts": lambda r: {
        "choices": {"label": list("ABCD"), "text": TREES},
        "answerKey": "ABCD"[r],
    },
    "mappings": lambda r: {
        "choices": [{"label": x, "text": t} for x, t in zip("ABCD", TREES, strict=True)],
        "answer": "ABCD"[r],
    },
    "JSON text": lambda r: {"options": json.dumps(TREES), "answer": "ABCD"[r]},
    "Python's list": lambda r: {"options": str(TREES), "answer": "ABCD"[r]},
    "lines": lambda r: {"options": "A) oak\nB) larch\nC) palm\nD) fig", "answer": "ABCD"[r]},
    "one line": lambda r: {
        "options": "a ) oak , b ) larch , c ) palm , d ) fig",
        "answer": "abcd"[r],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_lettered_options(tmp_path: Path, form: str) -> None:
    rows = [row(n, {}, FORMS[form](right)) for n, right in enumerate(RIGHT)]
    result = prepared(tmp_path, rows)
    assert result.template == "multiple_choice"
    assert result.report["warnings"] == []
    found = turns(result)
    assert [letter for _, letter in found] == ["ABCD"[right] for right in RIGHT]
    listed = "A. oak\nB. larch\nC. palm\nD. fig\n\nAnswer with the letter of the right option."
    assert found[0][0] == f"Which tree stands at mile 0?\n\n{listed}"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_by_name(tmp_path: Path, form: str) -> None:
    rows = [row(n, {}, FORMS[form](right)) for n, right in enumerate(RIGHT)]
    named = prepared(tmp_path, rows, template="multiple_choice")
    assert turns(named) == turns(prepared(tmp_path, rows))


def test_chinese_rows_are_asked_in_chinese(tmp_path: Path) -> None:
    rows = [
        {"题目": f"第{n}棵是什么树？", "选项": ["橡树", "松树", "柳树"], "答案": "ABC"[n % 3]}
        for n in range(6)
    ]
    result = prepared(tmp_path, rows)
    assert result.template == "multiple_choice_zh"
    assert turns(result)[1] == (
        "第1棵是什么树？\n\nA. 橡树\nB. 松树\nC. 柳树\n\n请选出正确的选项，只回答字母。",
        "B",
    )


def test_the_passage_comes_first_and_empty_options_are_left_out(tmp_path: Path) -> None:
    options = {"passage": "Oaks line the road.", "A": "oak", "B": "", "C": "palm", "D": None}
    rows = [row(n, options, {"answer": "AC"[n % 2]}) for n in range(4)]
    prompt, letter = turns(prepared(tmp_path, rows))[1]
    assert prompt.startswith(
        "Oaks line the road.\n\nWhich tree stands at mile 1?\n\nA. oak\nC. palm"
    )
    assert letter == "C"


def test_numbers_that_may_count_from_0_or_1_are_said(tmp_path: Path) -> None:
    """Another file that shows it decides."""
    rows = [row(n, {"choices": TREES}, {"answer": 1}) for n in range(3)]
    result = prepared(tmp_path, rows)
    assert [letter for _, letter in turns(result)] == ["B", "B", "B"]
    (said,) = result.report["warnings"]
    assert "no row shows whether the first option is 0 or 1: taken as 0 (answer)" in said
    write(tmp_path / "more.jsonl", [row(9, {"choices": TREES}, {"answer": 4})])
    result = prepared(tmp_path, rows, train=["rows.jsonl", "more.jsonl"])
    decode = make_tokenizer("chatml").decode
    letters = [decode(each.input_ids).split("assistant\n")[1][0] for each in result.train]
    assert sorted(letters) == ["A", "A", "A", "D"]
    assert result.report["warnings"] == []


def test_a_preview_reads_answers_as_the_plan_does(tmp_path: Path) -> None:
    """Of its few rows none shows that options count from 1."""
    rows = [row(n, {"choices": TREES}, {"answer": 1 + n // 3}) for n in range(12)]
    data = SftData(inputs(tmp_path, rows))
    _, shown = data.preview(2)
    assert ["".join(p.text for p in each.parts if p.learned)[0] for each in shown] == ["A", "A"]


@pytest.mark.parametrize(
    ("options", "answer", "why"),
    [
        ({"options": TREES}, "E", "the answer in 'answer' is none of the options of its row"),
        ({"options": TREES}, None, "the column 'answer' is null"),
        ({"options": ["oak"]}, "A", "there are fewer than two options"),
        ({"options": "oak or larch"}, "A", "the column 'options' has no options"),
        (
            {"options": TREES},
            ["A", "B"],
            "an answer names several options: a question must have one (for several, "
            "data.template: multiple_answers, or multiple_answers_zh)",
        ),
        ({"options": [["oak"], ["fig"]]}, "A", "an option in 'options' is not text"),
        ({"options": TREES * 7}, "A", "there are 28 options, more than letters"),
    ],
)
def test_odd_rows_are_named(tmp_path: Path, options: Any, answer: Any, why: str) -> None:
    good = [row(n, {"options": TREES}, {"answer": "B"}) for n in range(20)]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [*good, row(99, options, {"answer": answer})])
    assert caught.value.problems == [f"{why}: rows.jsonl:21"]


def test_held_out_rows_choose_among_their_own_options(
    tmp_path: Path, make_recipe: Callable[..., Path]
) -> None:
    """Which may be more or fewer than another row's."""
    rows = [row(n, {"options": TREES[: 2 + n % 3]}, {"answer": "AB"[n % 2]}) for n in range(12)]
    result = prepared(tmp_path, rows, eval=6)
    decode = make_tokenizer("chatml").decode
    assert {len(held.options) for held in result.eval} == {2, 3, 4}
    for held in result.eval:
        assert held.gold is not None
        assert held.options[held.gold] == held.example
        letters = [decode(each.input_ids).split("assistant\n")[1][0] for each in held.options]
        assert letters == list("ABCD"[: len(held.options)])
        assert f"{letters[-1]}. {TREES[len(letters) - 1]}" in held.prompt_text
    recipe = make_recipe(data_rows=rows, data={"template": "auto", "eval": 4})
    made = make.make(recipe_load.load(recipe, verb="sft"), hardware.detect(), output=Path("none"))
    assert "label_accuracy" in made.metrics


def test_prompts_of_a_policy_need_no_answer(tmp_path: Path) -> None:
    rows = [row(n, {"options": TREES}, {"answer": n % 4}) for n in range(8)]
    rows.append(row(9, {"options": TREES}, {"answer": None}))
    data = PromptData(inputs(tmp_path, rows, template="multiple_choice"), 16)
    found = sorted(data.prepare().train, key=lambda each: int(each.row.rpartition(":")[2]))
    assert [each.reference for each in found] == [*"ABCDABCD", ""]
    assert "A. oak\nB. larch" in found[-1].text
