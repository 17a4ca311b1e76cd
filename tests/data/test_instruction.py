"""`data.instruction`: a text before the first question of every row."""

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
from tuner.data.tokens.prepared import Inputs
from tuner.errors import RecipeError
from tuner.recipe.schema import DataSection

SAY = "Name the mood of the letter."
LETTER, MOOD = "The pears were the best in years!", "glad"


def inputs(folder: Path, rows: Sequence[Any], kind: str = "chatml", **keys: Any) -> Inputs:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    data = DataSection(**({"train": ["rows.jsonl"], "eval": 0, "instruction": SAY} | keys))
    tokenizer = make_tokenizer(kind)
    if kind == "encoder":
        tokenizer.eos_token = tokenizer.sep_token
    return Inputs(data, tokenizer, folder, 7, 512)


def texts(folder: Path, row: dict[str, Any], **keys: Any) -> list[str]:
    found = SftData(inputs(folder, [row], **keys)).prepare().train
    return [make_tokenizer("chatml").decode(each.input_ids) for each in found]


def test_it_comes_before_the_first_question(tmp_path: Path) -> None:
    start, answer = f"<|im_start|>user\n{SAY}\n\n", f"<|im_end|>\n<|im_start|>assistant\n{MOOD}"
    for row in ({"text": LETTER, "label": MOOD}, {"prompt": LETTER, "completion": MOOD}):
        (text,) = texts(tmp_path, row)
        assert text.startswith(f"{start}{LETTER}{answer}")
    turns = [("system", "Be brief."), ("user", LETTER), ("assistant", MOOD), ("user", "And?")]
    turns.append(("assistant", "No."))
    (text,) = texts(tmp_path, {"messages": [{"role": r, "content": c} for r, c in turns]})
    assert f"{start}{LETTER}{answer}" in text
    assert text.count(SAY) == 1
    (text,) = texts(tmp_path, {"text": LETTER, "label": "positive"}, template="cloze")
    assert text.startswith(f"{SAY}\n\n{LETTER} Overall, it was a great")


def test_a_source_may_have_its_own(tmp_path: Path) -> None:
    source = {"source": "rows.jsonl", "instruction": "Sort the letter.\n"}
    (text,) = texts(tmp_path, {"text": LETTER, "label": MOOD}, train=[source])
    assert text.startswith(f"<|im_start|>user\nSort the letter.\n\n{LETTER}")


def test_every_task_sends_it(tmp_path: Path) -> None:
    decode = make_tokenizer("chatml").decode
    pair = {"prompt": LETTER, "chosen": MOOD, "rejected": "sour"}
    (ranking,) = PreferenceData(inputs(tmp_path, [pair])).prepare().train
    (prompt,) = PromptData(inputs(tmp_path, [{"prompt": LETTER}]), 16).prepare().train
    for ids in (ranking.prompt_ids, prompt.input_ids):
        assert decode(ids).startswith(f"<|im_start|>user\n{SAY}\n\n{LETTER}<|im_end|>")
    rows = [{"text": LETTER, "label": MOOD}, {"text": "Where is my hat?", "label": "sour"}]
    made = SftData(inputs(tmp_path, rows, "encoder"), "classes").prepare().train[0]
    assert make_tokenizer("encoder").decode(made.input_ids) == f"[CLS]{SAY}\n\n{LETTER}[SEP]"


def test_plain_text_has_no_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.instruction has no place here"):
        texts(tmp_path, {"text": LETTER})
    source = {"source": "rows.jsonl", "instruction": SAY}
    with pytest.raises(RecipeError, match="an instruction for rows of the data template 'text'"):
        texts(tmp_path, {"text": LETTER}, train=[source], instruction=None)
