"""What rows must be, how they are split, and the labels: D07, D08, D11, D12."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers import THINK_TEMPLATE, make_tokenizer
from tuner.data.rows.dialogue import Dialogue
from tuner.data.sft import SftData
from tuner.data.split import Group, held_out
from tuner.data.templates.template import all_templates
from tuner.data.tokens.prepared import EvalRow, Inputs, Prepared
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

HERE = Path(__file__).parent


def prepared(folder: Path, rows: Sequence[Any], tokenizer: Any = None, **keys: Any) -> Prepared:
    """Prepare rows written to a file of the folder."""
    seed = keys.pop("seed", 7)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, "utf-8")
    data = DataSection(**({"train": ["rows.jsonl"], "eval": 0} | keys))
    tokenizer = tokenizer or make_tokenizer("chatml")
    return SftData(Inputs(data, tokenizer, folder, seed, 512)).prepare()


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


GOOD = chat(("user", "Hello?"), ("assistant", "Hi."))
ROLES = all_templates()[0].conversation
UNKNOWN = f'unknown role "narrator" (known: {", ".join(ROLES.roles if ROLES else ())})'
FIRST = (
    "the assistant speaks first (there is no prompt: leave that turn out, or make it one of the "
    "system)"
)
BAD = {
    "the answer is empty": chat(("user", "x"), ("assistant", " \n")),
    "the answer is null": chat(("user", "x"), ("assistant", None)),
    FIRST: chat(("assistant", "x"), ("user", "y")),
    "there is more than one system turn": chat(
        ("system", "a"), ("system", "b"), ("user", "x"), ("assistant", "y")
    ),
    "the system turn is not the first one": chat(
        ("user", "x"), ("system", "b"), ("assistant", "y")
    ),
    UNKNOWN: chat(("user", "x"), ("narrator", "y")),
    "the content of a turn is not text but int": chat(("user", 3), ("assistant", "y")),
    "there is no assistant turn": chat(("user", "x")),
    "the column 'messages' is not a list of turns": {"messages": "x"},
    "the column 'messages' is null": {"messages": None},
    "the column 'messages' is missing": {"id": 3},
}


@pytest.mark.parametrize("reason", BAD)
def test_unfit_rows_are_listed_by_class(tmp_path: Path, reason: str) -> None:
    """D12: up to ten rows of each class; left out and counted where the recipe allows it."""
    rows = [GOOD, *[BAD[reason]] * 12]
    with pytest.raises(DataError, match="12 rows cannot be used for training") as caught:
        prepared(tmp_path, rows, template="chat")
    listed = ", ".join(f"rows.jsonl:{line}" for line in range(2, 12))
    assert caught.value.problems == [f"{reason}: {listed} and 2 more"]
    result = prepared(tmp_path, rows, template="chat", max_bad_rows=12)
    assert result.report["rows_train"] == 1
    assert [item["reason"] for item in result.report["skipped"]] == [reason] * 12
    assert f"12 bad rows left out: {listed}, ..." in result.report["warnings"]


def test_all_classes_at_once(tmp_path: Path) -> None:
    """D12: several classes are reported together."""
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [GOOD, *BAD.values()], template="chat")
    assert len(caught.value.problems) == len(BAD)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "x", "completion": ""}, "the column 'completion' is empty"),
        ({"prompt": "x", "completion": None}, "the column 'completion' is null"),
        ({"prompt": "x", "completion": " \t"}, "the column 'completion' is empty"),
        (
            {"prompt": "", "completion": "x"},
            "the column 'prompt' is empty; to learn 'completion' alone: "
            "template: text, columns: {text: completion}",
        ),
        ({"prompt": "x", "completion": ["y"]}, "the column 'completion' is not text but a list"),
        ({"prompt": {"a": 1}, "completion": "y"}, "the column 'prompt' is not text but an object"),
        ({"prompt": True, "completion": "y"}, "the column 'prompt' is not text but true"),
        ({"prompt": "x"}, "the column 'completion' is missing"),
    ],
)
def test_empty_and_missing_columns(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    """D12: an answer of nothing is never learned."""
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{"prompt": "a", "completion": "b"}, row])
    assert caught.value.problems == [f"{reason}: rows.jsonl:2"]


def test_blank_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    result = prepared(tmp_path, [{"text": "one"}, {"text": " \n"}, {"text": ""}])
    assert result.report["rows_train"] == 1
    assert result.report["blank_rows"] == 2
    with pytest.raises(DataError, match="train split is empty"):
        prepared(tmp_path, [{"text": ""}])


def split_rows(folder: Path, order: int | None = None, seed: int = 7) -> tuple[set[str], list[str]]:
    rows = [{"prompt": f"Question {i}", "completion": f"Answer {i}"} for i in range(40)]
    rows += [
        {"prompt": f" question  {i % 2}", "completion": f"ANSWER {i % 2}\n"} for i in range(10)
    ]
    if order is not None:
        random.Random(order).shuffle(rows)
    result = prepared(folder, rows, eval=0.2, seed=seed)
    assert result.report["rows_train"] + result.report["rows_eval"] == 50
    decode = make_tokenizer("chatml").decode

    def text(ids: list[int]) -> str:
        return " ".join(decode(ids).casefold().split())

    held = [text(row.example.input_ids) for row in result.eval]
    trained = [text(example.input_ids) for example in result.train]
    assert not set(held) & set(trained)
    assert len(held) == 10
    return set(held), [result.report["tokens_sha256"], *held]


def test_the_split_is_reproducible_and_without_leaks(tmp_path: Path) -> None:
    """D11: equal texts on one side; the seed decides; the order of the rows does not."""
    held, order = split_rows(tmp_path)
    assert split_rows(tmp_path)[1] == order
    assert split_rows(tmp_path, seed=8)[0] != held
    for shuffle in range(5):
        assert split_rows(tmp_path, order=shuffle)[0] == held


def test_rows_of_the_eval_file_that_stand_in_train_are_taken_out(tmp_path: Path) -> None:
    """D11: counted, and compared without case and white space."""
    held = [{"prompt": "q 1", "completion": "A 1 "}, {"prompt": "New", "completion": "Yes"}]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    rows = [{"prompt": f"Q {i}", "completion": f"A {i}"} for i in range(5)] * 2
    result = prepared(tmp_path, rows, eval="held.jsonl")
    assert [row.example.row for row in result.eval] == ["held.jsonl:2"]
    assert result.report["eval_rows_also_in_train"] == 1
    assert result.report["duplicates_in_train"] == 5
    assert any(
        "left out of the eval split because their prompts are in train" in text
        for text in result.report["warnings"]
    )


@pytest.mark.parametrize(("amount", "count"), [(3, 3), (0.5, 5), (0.01, 1), (0, 0)])
def test_eval_as_count_or_share(tmp_path: Path, amount: float, count: int) -> None:
    rows = [{"prompt": f"Q {i}", "completion": f"A {i}"} for i in range(10)]
    result = prepared(tmp_path, rows, eval=amount)
    assert result.report["rows_eval"] == len(result.eval) == count
    assert result.report["rows_train"] == 10 - count


def test_a_split_that_takes_everything_is_an_error(tmp_path: Path) -> None:
    """D07: naming the split that would be empty."""
    rows = [{"prompt": f"Q {i}", "completion": f"A {i}"} for i in range(4)]
    with pytest.raises(DataError, match="train split is empty"):
        prepared(tmp_path, rows, eval=4)
    with pytest.raises(DataError, match="eval split is empty"):
        held_out({"a": Group(b"a", 9), "b": Group(b"b", 9)}, 3)


def test_fingerprints_differ_with_the_words_only() -> None:
    def of(text: str) -> str:
        return Dialogue("r", messages=({"role": "user", "content": text},)).mark

    assert of("Straße  one\n") == of("STRASSE ONE")
    assert of("one two") != of("onetwo")


def test_labels_become_options(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q {i}", "completion": ["yes", "no", "perhaps"][i % 3]} for i in range(9)]
    result = prepared(tmp_path, rows, eval=6, labels=["yes", "no"])
    assert result.labels == ("yes", "no")
    others = sum(row.reference == "perhaps" for row in result.eval)
    assert result.report["eval_rows_without_label"] == others > 0
    assert any(
        "held-out rows do not count for label_accuracy" in text
        for text in result.report["warnings"]
    )
    decode = make_tokenizer("chatml").decode
    for row in result.eval:
        if row.reference == "perhaps":
            assert (row.options, row.gold) == ([], None)
            continue
        assert row.gold == ("yes", "no").index(row.reference)
        assert row.options[row.gold].input_ids == row.example.input_ids
        assert [answer(option, decode) for option in row.options] == [
            "yes<|im_end|>",
            "no<|im_end|>",
        ]
        for option in row.options:
            assert option.input_ids[: len(row.prompt_ids)] == row.prompt_ids
    with pytest.raises(RecipeError, match="appears twice"):
        prepared(tmp_path, rows, labels=["yes", "yes"])


def answer(example: Any, decode: Any) -> str:
    pairs = zip(example.input_ids, example.supervised, strict=True)
    return str(decode([index for index, flag in pairs if flag]))


def test_cloze_options_are_the_words(tmp_path: Path) -> None:
    rows = [
        {"text": f"Scene {i} was long.", "label": "positive" if i % 2 else "negative"}
        for i in range(8)
    ]
    tokenizer = make_tokenizer("bos")
    result = prepared(tmp_path, rows, tokenizer, eval=4, template="cloze")
    assert result.template == "cloze"
    assert result.labels == ("positive", "negative")
    assert result.chat_template is None
    for row in result.eval:
        words = [answer(option, tokenizer.decode).strip() for option in row.options]
        assert words == ["great", "terrible"]
        assert row.gold is not None
        assert row.reference == words[row.gold]
        assert tokenizer.decode(row.prompt_ids).endswith("Overall, it was a")
        assert row.prompt_text.endswith("Overall, it was a")
        text = tokenizer.decode(row.example.input_ids)
        assert text.startswith("<s>Scene ")
        assert text.endswith(" movie</s>")
    with pytest.raises(DataError, match="cannot be used for training") as caught:
        prepared(tmp_path, [*rows, {"text": "x", "label": "dull"}], template="cloze")
    assert "has no word for the label 'dull'" in str(caught.value)
    with pytest.raises(RecipeError, match="no word for dull"):
        prepared(tmp_path, rows, labels=["positive", "dull"], template="cloze")


def test_eval_prompts_end_where_the_last_answer_begins(tmp_path: Path) -> None:
    row = chat(("user", "A?"), ("assistant", "B."), ("user", "C?"), ("assistant", "D."))
    other = chat(("user", "E?"), ("assistant", "F."))
    result = prepared(tmp_path, [row, other], eval=1)
    found: EvalRow = result.eval[0]
    decode = make_tokenizer("chatml").decode
    assert decode(found.prompt_ids).endswith("<|im_start|>assistant\n")
    last = "D." if "C?" in decode(found.prompt_ids) else "F."
    assert found.reference == last
    assert found.prompt_text == ("C?" if last == "D." else "E?")
    assert found.example.input_ids[: len(found.prompt_ids)] == found.prompt_ids


def test_eval_rows_of_a_template_that_rewrites_turns(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = THINK_TEMPLATE
    rows = [
        chat(("user", f"{i}?"), ("assistant", "yes"), ("user", "so?"), ("assistant", "no"))
        for i in range(4)
    ]
    result = prepared(tmp_path, rows, tokenizer, eval=2, labels=["yes", "no"])
    assert [row.reference for row in result.eval] == ["yes", "no"] * 2
    assert [row.gold for row in result.eval] == [0, 1] * 2
    assert result.report["rows_eval"] == 2
    for row in result.eval:
        assert row.gold is not None
        assert row.options[row.gold] == row.example


def test_raw_text_gives_its_beginning_as_prompt(tmp_path: Path) -> None:
    rows = [{"text": f"The tenant {i} shall pay the rent on the first day."} for i in range(4)]
    result = prepared(tmp_path, rows, eval=1)
    found = result.eval[0]
    assert found.prompt_text + found.reference == rows[int(found.example.row[-1]) - 1]["text"]
    assert found.prompt_ids
