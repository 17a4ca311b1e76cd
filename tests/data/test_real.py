"""Real public data in the formats that users bring, from the folder TUNER_TEST_DATA."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_turns import TOOL_TEMPLATE
from tests.tokenizers import make_tokenizer
from tuner.data.sft import SftData
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

FOLDER = os.environ.get("TUNER_TEST_DATA", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="TUNER_TEST_DATA is not set: no folder of real data"
)
FILES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "belle-zh/dev1K.jsonl": ("instruction_zh", 798, {}),
    "belle-zh/eval_set.jsonl": (
        "qa_zh",
        307,
        {"template": "qa_zh", "columns": {"answer": "std_answer"}, "max_bad_rows": 500},
    ),
    "huatuo-med-zh/llama_data_sample.jsonl": ("instruction_zh", 3000, {}),
    "gpteacher-roleplay/roleplay.jsonl": ("instruction", 1500, {}),
    "sharegpt-dummy-en/dummy_conversation.jsonl": ("sharegpt", 500, {}),
    "gsm8k/train_sample.jsonl": ("prompt_completion", 2500, {}),
    # One row in a list on each line.
    "lawyer-llama-zh/legal_advice.jsonl": ("instruction_zh", 2000, {}),
    # Turns as texts that begin with [客户] and [律师]; a prompt with <user> and <bot>.
    "lawyer-llama-zh/legal_counsel_multi_turn_with_article_v2.jsonl": (
        "chat",
        336,
        {"columns": {"query": "none", "laws": "none"}},
    ),
    "huatuo-med-zh/liver_cancer.jsonl": ("instruction_zh", 850, {}),
    "lawyer-llama-zh/legal_counsel_with_article_v2.jsonl": ("qa_zh", 549, {}),
    "humaneval/HumanEval.jsonl": (
        "prompt_completion",
        114,
        {"columns": {"entry_point": "none", "test": "none"}, "render": "raw"},
    ),
    "cuad-clauses-en/CUAD_Audit_Rights.tsv": (
        "prompt_completion",
        250,
        {
            "template": "prompt_completion",
            "columns": {"prompt": "text", "completion": "label"},
            "labels": ("Yes", "No"),
        },
    ),
    # 118 of its 230 answers are disliked.
    "kto-en/kto_en_demo.jsonl": ("chat", 112, {"disliked": "drop"}),
    "lexglue-mini-en/overruling.jsonl": ("classification", 1600, {}),
    "e2e-nlg/valid.txt": ("text", 4672, {"template": "text"}),
    "wiki-demo/wikitext2_test_part1.json": ("text", 1451, {}),
    "c4-demo/c4_demo.jsonl": ("text", 230, {}),
}


def load(name: str, tokenizer: Any, **keys: Any) -> Prepared:
    data = DataSection(**({"train": (name,)} | keys))
    return SftData(Inputs(data, tokenizer, Path(FOLDER), 3, 65_536)).prepare()


@pytest.mark.parametrize("name", FILES)
def test_real_files_load(name: str) -> None:
    """Every row arrives; what is learned ends in a stop token."""
    template, rows, keys = FILES[name]
    tokenizer = make_tokenizer("chatml")
    result = load(name, tokenizer, **keys)
    assert result.template == template
    assert result.report["rows_train"] + result.report["rows_eval"] == rows
    for example in result.train:
        learned = [i for i, flag in zip(example.input_ids, example.supervised, strict=True) if flag]
        assert learned[-1] == tokenizer.eos_token_id
    assert all(row.prompt_ids for row in result.eval)
    if keys.get("labels"):
        assert all(row.gold is not None for row in result.eval)


def test_real_tool_calls() -> None:
    """D09: every row shows its tools; calls are learned in the template's own form."""
    tokenizer = make_tokenizer("chatml")
    name = "glaive-toolcall-en/glaive_toolcall_en.jsonl"
    with pytest.raises(DataError, match="cannot render tools"):
        load(name, tokenizer)
    tokenizer.chat_template = TOOL_TEMPLATE
    result = load(name, tokenizer)
    assert result.report["ignored_columns"] == []
    texts = [tokenizer.decode(example.input_ids) for example in result.train]
    calls = [text for text in texts if "<call>" in text]
    assert len(calls) > 50
    for example in result.train:
        learned = [i for i, flag in zip(example.input_ids, example.supervised, strict=True) if flag]
        text = tokenizer.decode(learned)
        assert text.count("<call>") == tokenizer.decode(example.input_ids).count("<call>")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("belle-zh/zh_seed_tasks.json", "no data template fits the columns"),
        ("truthfulqa/truthfulqa.jsonl", "columns: {prompt: question, completion: answer.0}"),
        ("dpo-en/dpo_en_demo.jsonl", "for tuner reward"),
        ("lawyer-llama-zh/legal_counsel_multi_turn_with_article_v2.jsonl", "column 'laws'"),
    ],
)
def test_real_files_that_need_preparation_say_so(name: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(name, make_tokenizer("chatml"))
    assert message in str(caught.value)
