"""Rows longer than `data.max_length`: what `data.long` makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tokenizers import make_tokenizer
from tuner.cli import data as command
from tuner.cli.make_plan import as_begun
from tuner.console.console import Console
from tuner.data.preferences import PreferenceData
from tuner.data.prompts import PromptData
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError, RecipeError
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import load as recipe_load
from tuner.recipe.schema import DataSection
from tuner.record import disk

# Neither a character nor a word is one token of the tiny tokenizers.
TEXT = "第一条 \U0001f69a " + "".join(f"clause{n} 快递\U0001f69a " for n in range(60)) + "the end"


def section(folder: Path, rows: Sequence[Any], **keys: Any) -> DataSection:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, "utf-8")
    return DataSection(**({"train": ["rows.jsonl"], "eval": 0} | keys))


def prepared(
    folder: Path, rows: Sequence[Any], kind: str = "chatml", context: int = 4096, **keys: Any
) -> Prepared:
    data = section(folder, rows, **keys)
    return SftData(Inputs(data, make_tokenizer(kind), folder, 7, context)).prepare()


def answered(prompt: int, answer: int) -> dict[str, str]:
    return {"prompt": "1 " * prompt, "completion": "2 " * answer}


def length(folder: Path, row: Any, kind: str = "chatml") -> int:
    return len(prepared(folder, [row], kind).train[0].input_ids)


@pytest.mark.parametrize(
    ("row", "share"),
    [
        ({"text": TEXT}, 0.49),
        (answered(10, 200), 0.45),
        # Most of the row stays, but little of its answer, or nothing.
        (answered(200, 60), 0.8),
        (answered(300, 3), 0.9),
    ],
)
def test_a_row_that_would_lose_most_of_it_is_refused(
    tmp_path: Path, row: dict[str, str], share: float
) -> None:
    """One such row among many is enough; the message names it and what to set."""
    rows = [*(dict.fromkeys(row, f"short {n}") for n in range(29)), row]
    most, whole = int(share * length(tmp_path, row)), length(tmp_path, row)
    with pytest.raises(DataError, match="1 of 30 rows would lose more than half") as caught:
        prepared(tmp_path, rows, max_length=most, cut="answer")
    assert caught.value.exit_code == 3
    assert f"rows.jsonl:30 ({whole:,} tokens)" in caught.value.why
    assert f"data.max_length: {whole}" in caught.value.fix
    assert ("data.long: split" in caught.value.fix) == ("text" in row)
    assert prepared(tmp_path, rows, max_length=whole).report["truncated_rows"] == 0
    cut = prepared(tmp_path, rows, max_length=most, long="truncate").report
    assert cut["truncated_rows"] == 1
    assert cut["warnings"][0].startswith(f"1 row truncated to {most} tokens: ")


@pytest.mark.parametrize("row", [{"text": TEXT}, answered(10, 200)])
def test_a_row_that_keeps_half_is_cut_with_a_warning(tmp_path: Path, row: dict[str, str]) -> None:
    most = int(0.6 * length(tmp_path, row))
    report = prepared(tmp_path, [row], max_length=most, cut="answer").report
    assert (report["truncated_rows"], report["longest"]) == (1, most)
    assert report["warnings"][0].startswith(f"1 row truncated to {most} tokens: ")
    with pytest.raises(DataError, match=f"1 of 1 rows is longer than {most} tokens"):
        prepared(tmp_path, [row], max_length=most, long="error")
    assert prepared(tmp_path, [{"text": "short"}], max_length=most, long="error").train


def test_a_held_out_row_counts_as_well(tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text(json.dumps({"text": TEXT}) + "\n", "utf-8")
    with pytest.raises(DataError, match="1 of 2 rows would lose more than half") as caught:
        prepared(tmp_path, [{"text": "short"}], max_length=64, eval="held.jsonl", cut="answer")
    assert "held.jsonl:1" in caught.value.why


def test_a_text_that_is_not_even_read_to_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than half") as caught:
        prepared(tmp_path, [{"text": "word " * 40_000}], context=512, cut="answer")
    assert "the model's context is 512 tokens" in caught.value.why
    assert "data.max_length" not in caught.value.fix


def test_truncation_is_no_way_out_where_it_leaves_no_answer(tmp_path: Path) -> None:
    """A fix that is printed works."""
    rows = [answered(300, 3)] * 4
    with pytest.raises(DataError, match="4 of 4 rows") as caught:
        prepared(tmp_path, rows, max_length=64)
    assert "truncate" not in caught.value.fix
    with pytest.raises(DataError, match="without an answer"):
        prepared(tmp_path, rows, max_length=64, long="truncate")


@pytest.mark.parametrize("kind", ["chatml", "bos"])
@pytest.mark.parametrize("most", [17, 64, 300])
def test_pieces_hold_every_token_once(tmp_path: Path, kind: str, most: int) -> None:
    """And each is text by itself: none begins or ends inside a character."""
    tokenizer = make_tokenizer(kind)
    (whole,) = prepared(tmp_path, [{"text": TEXT}], kind).train
    result = prepared(
        tmp_path, [{"text": "a"}, {"text": TEXT}], kind, max_length=most, long="split"
    )
    pieces = result.train[1:]
    opening = 1 if kind == "bos" else 0
    assert all(piece.input_ids[:opening] == whole.input_ids[:opening] for piece in pieces)
    bodies = [piece.input_ids[opening:] for piece in pieces]
    assert [token for body in bodies for token in body] == whole.input_ids[opening:]
    texts = [tokenizer.decode(body) for body in bodies]
    assert "".join(texts) == TEXT + tokenizer.eos_token
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts)
    assert all(len(piece.input_ids) <= most for piece in pieces)
    assert len(pieces) <= 1.3 * len(whole.input_ids) / (most - opening) + 1
    assert all(
        piece.supervised == [False] + [True] * (len(piece.input_ids) - 1) for piece in pieces
    )
    report = result.report
    assert (report["rows_train"], report["examples_train"]) == (2, 1 + len(pieces))
    assert (report["split_rows"], report["split_pieces"]) == (1, len(pieces))
    assert (report["truncated_rows"], report["supervised_tokens_cut_share"]) == (0, 0)
    assert report["warnings"] == [
        f"1 long text split into {len(pieces)} pieces of at most {most} tokens"
    ]
    again = prepared(tmp_path, [{"text": "a"}, {"text": TEXT}], kind, max_length=most, long="split")
    assert again.report == report


def test_a_text_of_any_length_is_read_to_its_end_for_pieces(tmp_path: Path) -> None:
    text = "word " * 40_000 + "last"
    result = prepared(tmp_path, [{"text": text}], context=512, long="split")
    ids = [token for piece in result.train for token in piece.input_ids]
    assert make_tokenizer("chatml").decode(ids) == text + "<|im_end|>"
    assert result.report["rows_cut_while_reading"] == []


def test_held_out_texts_are_split_and_stay_on_their_side(tmp_path: Path) -> None:
    rows = [{"text": f"{n} {TEXT}"} for n in range(4)]
    result = prepared(tmp_path, rows, max_length=128, long="split", eval=1)
    assert len(result.eval) == result.report["eval_split_pieces"] > 4
    assert not {row.example.row for row in result.eval} & {row.row for row in result.train}


def test_only_plain_text_is_split(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="split works on plain text only"):
        prepared(tmp_path, [answered(3, 3)], long="split")
    with pytest.raises(RecipeError, match="leaves no room for pieces"):
        prepared(tmp_path, [{"text": TEXT}], "bos", long="split", max_length=2)


@pytest.mark.parametrize("long", ["truncate", "split"])
def test_prompts_and_preferences_are_never_cut(tmp_path: Path, long: str) -> None:

    def inputs(rows: list[dict[str, str]], **keys: Any) -> Inputs:
        return Inputs(section(tmp_path, rows, **keys), make_tokenizer("chatml"), tmp_path, 1, 512)

    rows: list[dict[str, str]] = [{"prompt": f"{n}?"} for n in range(19)]
    rows.append({"prompt": "1 " * 600})
    with pytest.raises(RecipeError, match="never cut"):
        PromptData(inputs(rows, long=long), 9).prepare()
    few = PromptData(inputs(rows), 9).prepare()
    assert few.report["dropped_too_long"] == 1
    with pytest.raises(DataError, match="1 of 20 training rows"):
        PromptData(inputs(rows, long="error"), 9).prepare()
    pairs = [{**row, "chosen": "a", "rejected": "b"} for row in rows]
    with pytest.raises(RecipeError, match="never cut"):
        PreferenceData(inputs(pairs, long=long)).prepare()
    with pytest.raises(DataError, match="1 of 20 training rows"):
        PreferenceData(inputs(pairs, long="error")).prepare()


def test_plan_and_preview_refuse_alike(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Before anything of the base but its configuration is looked at; pieces are shown as such."""
    data = {"template": "text", "eval": 0, "max_length": 64, "cut": "answer"}
    recipe = make_recipe(data_rows=[{"text": TEXT}], data=data)
    loaded = recipe_load.load(recipe, verb="lora")
    with pytest.raises(DataError) as planned:
        make.make(loaded, hardware.detect(), output=tmp_path / "run")
    with pytest.raises(DataError) as shown:
        command.preview(str(recipe), (), 3, Console(quiet=True))
    assert planned.value.as_dict() == shown.value.as_dict()
    loaded = recipe_load.load(recipe, ["data.long=split"], verb="lora")
    made = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    assert made.facts["data"]["split_pieces"] == len(made.prepared.train) > 5
    assert made.warnings[0].startswith("1 long text split into ")


def test_the_plan_decides_what_auto_means(make_recipe: Callable[..., Path]) -> None:
    made = make.make(
        recipe_load.load(make_recipe(), verb="sft"), hardware.detect(), output=Path("none")
    )
    assert made.values["data.long"].value == "truncate"
    assert "data.long" not in made.identity()


def test_a_run_of_an_earlier_version_is_resumed_as_it_began(
    make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Text and label were film reviews then, and long rows were cut without asking."""
    rows = [{"text": f"Scene {n}.", "label": ["positive", "negative"][n % 2]} for n in range(23)]
    rows.append({"text": "A very long scene. " * 40, "label": "positive"})
    keys = {"eval": 4, "max_length": 200}
    old = {"template": "cloze", "long": "truncate", "cut": "answer", "split": "row"}
    named = recipe_load.load(make_recipe(data_rows=rows, data={**keys, **old}), verb="sft")
    began = make.make(named, hardware.detect(), output=tmp_path / "run")
    recipe = make_recipe(data_rows=rows, data={**keys, "template": "auto"})
    loaded = recipe_load.load(recipe, verb="sft")
    assert as_begun(loaded, tmp_path / "run") is loaded
    now = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    assert now.identity() != began.identity()

    record = began.as_dict()
    for key in ("data.long", "data.cut", "data.split", "data.draw"):
        del record["values"][key]
    (tmp_path / "run").mkdir()
    for _ in range(2):
        head = {"format": 1, "tuner": "0.1.0", "status": "interrupted", "plan": record}
        disk.write_json(tmp_path / "run" / "run.json", head)
        resumed = make.make(
            as_begun(loaded, tmp_path / "run"), hardware.detect(), output=tmp_path / "run"
        )
        assert resumed.identity() == began.identity()
        # What the resumed run writes is what it is resumed by once more.
        record = resumed.as_dict()
    assert yaml.safe_load(recipe.read_text())["data"]["template"] == "auto"


def test_the_preview_of_prompts_refuses_no_more_than_a_run(
    make_recipe: Callable[..., Path],
) -> None:
    """With supervised rows mixed in, `data.long` is for them."""
    rlhf = {"algorithm": "ppo", "reward": [{"rule": "length", "max": 2}], "max_new_tokens": 6}
    data = {"template": "auto", "eval": 0, "long": "truncate"}
    mixed = {"ptx_coefficient": 0.5, "ptx_data": "eval.jsonl"}
    recipe = make_recipe(data_rows=[{"prompt": "Say it."}], data=data, rlhf=rlhf, ppo=mixed)
    command.preview(str(recipe), (), 3, Console(quiet=True))
