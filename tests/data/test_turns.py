"""Chat templates and their turns: M15 to M17, and D09 for tools."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.data.test_masks import FORMATS, KINDS, chat, learned, prepared
from tests.tokenizers import CHATML_TEMPLATE, THINK_TEMPLATE, make_tokenizer
from tuner.errors import DataError, ModelError

TOOL_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{{ message.content or '' }}{% for call in message.tool_calls or [] %}"
    "{{ '<call>' + (call.function | tojson) + '</call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


THINKING = chat(
    ("user", "1"),
    ("assistant", "<think>\nhm\n</think>\n\none"),
    ("user", "2"),
    ("assistant", "two"),
)


def test_a_template_that_rewrites_turns_is_split(tmp_path: Path) -> None:
    """M15: every answer is learned in the text that inference would have shown."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = THINK_TEMPLATE
    result = prepared(tmp_path, [THINKING], tokenizer)
    messages = THINKING["messages"]
    first, second = result.train
    for example, count in ((first, 2), (second, 4)):
        text = tokenizer.apply_chat_template(messages[:count], tokenize=False)
        assert tokenizer.decode(example.input_ids) == text
    assert learned(first, tokenizer) == ["<think>\nhm\n</think>\n\none<|im_end|>"]
    # No argument turns the block off: the model is asked in front of it, and writes it.
    assert learned(second, tokenizer) == ["<think>\n\n</think>\n\ntwo<|im_end|>"]
    assert "hm" not in tokenizer.decode(second.input_ids)
    assert result.report["rows_train"] == 1
    assert result.report["examples_train"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_training_text_is_the_inference_text(tmp_path: Path, kind: str) -> None:
    """M15: prefixes of a chat render to prefixes, and the ids are those of inference."""
    tokenizer = make_tokenizer(kind)
    row = FORMATS["chat"]
    result = prepared(tmp_path, [row], tokenizer)
    tokenizer.chat_template = result.chat_template
    texts = [
        tokenizer.apply_chat_template(row["messages"][:n], tokenize=False) for n in range(1, 5)
    ]
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(texts))
    ids = tokenizer.apply_chat_template(row["messages"])["input_ids"]
    assert result.train[0].input_ids == ids


def test_a_generation_prompt_that_is_no_prefix_is_refused(tmp_path: Path) -> None:
    """M15: exit 3, with the row, the prompt and the answered chat."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = CHATML_TEMPLATE.replace(
        "assistant\n' }}{% endif", "bot\n' }}{% endif"
    )
    with pytest.raises(DataError, match="chat template cannot be trained on") as caught:
        prepared(tmp_path, [FORMATS["chat"]], tokenizer)
    assert caught.value.exit_code == 3
    asked = "<|im_start|>user\\nWhen?<|im_end|>\\n<|im_start|>"
    assert caught.value.why.startswith("rows.jsonl:1: ")
    assert f"sent     '{asked}bot\\n'" in caught.value.why
    assert f"answered '{asked}assistant\\nNow.<|im_end|>\\n'" in caught.value.why


def test_templates_that_trim_contents(tmp_path: Path) -> None:
    """M15: a template that strips white space is followed, not fought."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = CHATML_TEMPLATE.replace("message['content']", "message.content|trim")
    example = prepared(tmp_path, [chat(("user", " a\n"), ("assistant", "\n b "))], tokenizer)
    assert learned(example.train[0], tokenizer) == ["b<|im_end|>"]


def test_the_chat_template_is_reported(tmp_path: Path) -> None:
    """M16: its text and its sha256 are those used, also for our plain one."""
    tokenizer = make_tokenizer("chatml")
    result = prepared(tmp_path, [FORMATS["chat"]], tokenizer)
    assert result.chat_template == CHATML_TEMPLATE
    assert result.report["chat_template_origin"] == "the tokenizer's"
    own = prepared(tmp_path, [FORMATS["chat"]], make_tokenizer("plain"))
    assert own.report["chat_template_sha256"] != result.report["chat_template_sha256"]
    raw = prepared(tmp_path, [FORMATS["text"]], tokenizer)
    assert (raw.chat_template, raw.report["chat_template_sha256"]) == (None, None)


def test_system_text_renders_literally(tmp_path: Path) -> None:
    """M17: to the last token."""
    tokenizer = make_tokenizer("chatml")
    text = 'it\'s {{ 7*7 }} \\n "q"'
    result = prepared(
        tmp_path, [chat(("system", text), ("user", "x"), ("assistant", text))], tokenizer
    )
    decoded = tokenizer.decode(result.train[0].input_ids)
    assert decoded.count(text) == 2
    assert "49" not in decoded


TOOL = {"type": "function", "function": {"name": "tide_table", "description": "d"}}


CALL = {"type": "function", "function": {"name": "tide_table", "arguments": {"port": "Brest"}}}


TOOL_ROW = {
    "messages": [
        {"role": "user", "content": "High water?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "16:40"},
        {"role": "assistant", "content": "At 16:40."},
    ],
    "tools": [TOOL],
}


def test_tools_are_rendered(tmp_path: Path) -> None:
    """D09, M04: the tool's name is in the prompt; calls and answers are learned."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = TOOL_TEMPLATE
    example = prepared(tmp_path, [TOOL_ROW], tokenizer).train[0]
    call = '<call>{"name": "tide_table", "arguments": {"port": "Brest"}}</call><|im_end|>'
    assert learned(example, tokenizer) == [call, "At 16:40.<|im_end|>"]
    before = tokenizer.decode(example.input_ids[: example.supervised.index(True)])
    assert "tide_table" in before
    share = {
        "conversations": [
            {"from": "human", "value": "High water?"},
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": "16:40"},
            {"from": "gpt", "value": "At 16:40."},
        ],
        "tools": json.dumps([TOOL]),
    }
    other = prepared(tmp_path, [share], tokenizer).train[0]
    assert (other.input_ids, other.supervised) == (example.input_ids, example.supervised)


def test_a_template_without_tools_is_refused(tmp_path: Path) -> None:
    """D09: exit 3, not silence; the recipe can leave the column out."""
    tokenizer = make_tokenizer("chatml")
    row = {**FORMATS["chat"], "tools": [TOOL]}
    with pytest.raises(DataError, match="cannot render tools"):
        prepared(tmp_path, [row], tokenizer)
    result = prepared(tmp_path, [row], tokenizer, columns={"tools": "none"})
    assert result.report["ignored_columns"] == ["tools"]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{"messages": TOOL_ROW["messages"]}], tokenizer)
    assert "cannot render tool calls" in str(caught.value)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [TOOL_ROW], tokenizer, render="raw")
    assert "plain text cannot show tools" in str(caught.value)


def test_a_role_that_the_template_leaves_out_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = CHATML_TEMPLATE.replace(
        "{% for message in messages %}",
        "{% for message in messages if message.role != 'system' %}",
    )
    row = chat(("system", "Be brief."), ("user", "a"), ("assistant", "b"))
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [row], tokenizer)
    assert "leaves out a system turn" in str(caught.value)


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("plain")
    tokenizer.eos_token = None
    for row in FORMATS.values():
        with pytest.raises(ModelError, match="end-of-sequence"):
            prepared(tmp_path, [row], tokenizer)


def test_a_truncating_tokenizer_does_not_truncate(tmp_path: Path) -> None:
    """D15: limits stored in tokenizer.json do not apply."""
    for row in (FORMATS["chat"], {"text": "one two three four five six seven eight nine"}):
        tokenizer = make_tokenizer("chatml")
        tokenizer.backend_tokenizer.enable_truncation(8)
        tokenizer.backend_tokenizer.enable_padding(length=64)
        result = prepared(tmp_path, [row], tokenizer)
        assert result.train == prepared(tmp_path, [row], make_tokenizer("chatml")).train
        assert result.report["longest"] > 8
