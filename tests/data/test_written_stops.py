"""Stop tokens that rows spell out at the end of their answers: exactly one is learned (M02)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.conftest import write_rows
from tests.data import test_preferences
from tests.data.test_conversations import said, user
from tests.data.test_masks import learned, prepared
from tests.tokenizers import make_tokenizer
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

Rows = list[dict[str, Any]]


def rows_ending_in(stop: str) -> dict[str, Rows]:
    after = f"{stop}\n" if stop else ""
    return {
        "text": [{"text": f"The rent is due.{stop}"}],
        "pair": [{"prompt": "Due?", "completion": f"The rent.{stop}"}],
        "history": [{"prompt": "Due?", "completion": f"So.{stop}", "history": [["a", f"b{stop}"]]}],
        "chat": [{"messages": [user("a"), said(f"b{stop}"), user("c"), said(f"d{after}")]}],
        "reasoning": [{"messages": [user("a"), said(f"b{stop}", "Hm.")]}],
    }


@pytest.mark.parametrize("policy", ["auto", "allow"])
@pytest.mark.parametrize("kind", rows_ending_in(""))
@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "qwen3", "glm-4.5", "gpt-oss"])
def test_one_stop_token_is_learned(tmp_path: Path, name: str, kind: str, policy: str) -> None:
    """M02: rows of other programs have one behind each answer; each of the stop tokens is one."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    stops = family.stop_ids(tokenizer)
    keys = {"stop_ids": stops, "special_tokens_in_text": policy}
    plain = prepared(tmp_path, rows_ending_in("")[kind], tokenizer, **keys)
    assert plain.report["rows_with_written_stops"] == 0
    for word in tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, *stops]):
        result = prepared(tmp_path, rows_ending_in(word)[kind], tokenizer, **keys)
        assert result.train == plain.train
        assert result.report["rows_with_written_stops"] == 1
        assert "1 row with the text of a stop token" in " ".join(result.report["warnings"])


def test_a_stop_token_elsewhere_is_text(tmp_path: Path) -> None:
    """One that is the whole answer, a second one, and those of other turns."""
    tokenizer = make_tokenizer("chatml")
    stop = "<|im_end|>"
    turns = [user(f"a{stop}"), said(f"b{stop}{stop}"), user("c"), said(stop)]
    (example,) = prepared(tmp_path, [{"messages": turns}], tokenizer).train
    assert learned(example, tokenizer) == [f"b{stop}{stop}", f"{stop}{stop}"]
    assert example.input_ids.count(tokenizer.eos_token_id) == 4
    assert tokenizer.decode(example.input_ids).count(stop) == 7


@pytest.mark.parametrize("head", ["language", "classes"])
def test_labels_that_end_in_one_are_found_among_the_answers(tmp_path: Path, head: str) -> None:
    name = "encoder" if head == "classes" else "chatml"
    tokenizer = make_tokenizer(name)
    if head == "classes":
        tokenizer.eos_token = tokenizer.sep_token
    stop = tokenizer.eos_token
    rows = [{"text": f"Mow field {n}.", "label": f"{'ab'[n % 2]}{stop}"} for n in range(24)]
    write_rows(tmp_path / "r.jsonl", rows)
    data = DataSection.model_validate({"train": "r.jsonl", "eval": 0.25})
    result = SftData(Inputs(data, tokenizer, tmp_path, 7, 2048), head).prepare()
    assert len(result.labels) == 2
    assert {row.gold for row in result.eval} == {0, 1}


def test_a_recipe_may_keep_or_refuse_them(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("plain")
    rows = rows_ending_in("</s>")["pair"]
    result = prepared(tmp_path, rows, tokenizer, special_tokens_in_text="literal")
    assert learned(result.train[0], tokenizer) == ["The rent.</s></s>"]
    assert result.train[0].input_ids.count(tokenizer.eos_token_id) == 1
    assert result.report["rows_with_written_stops"] == 0
    with pytest.raises(DataError, match="the text contains special tokens"):
        prepared(tmp_path, rows, tokenizer, special_tokens_in_text="error")


def test_answers_that_are_compared(tmp_path: Path) -> None:
    stop = "<|im_end|>"
    rows = [{"prompt": "Due?", "chosen": f"Now{end}", "rejected": f"No{end}"} for end in ("", stop)]
    plain, written = test_preferences.prepared(tmp_path, rows, split="row", eval=0).train
    assert plain.answers == written.answers


def test_what_an_encoder_decoder_writes(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("seq2seq")
    for policy in ("auto", "allow"):
        data = DataSection(train=("rows.jsonl",), eval=0, special_tokens_in_text=policy)
        made = []
        for end in ("", "</s>"):
            prepared(tmp_path, rows_ending_in(end)["pair"], tokenizer)
            inputs = Inputs(data, tokenizer, tmp_path, 7, 512)
            made.append(SftData(inputs, "sequence").prepare().train)
        assert made[0] == made[1]
        assert made[0][0].target[-1] == tokenizer.eos_token_id
