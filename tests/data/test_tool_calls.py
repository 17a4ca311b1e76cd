"""Tool calls in rows: arguments as objects or text, several in one turn, in every family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import TOOL, Row, said, user
from tests.data.test_masks import learned, prepared
from tuner.data.chat_template import ChatTemplate
from tuner.errors import DataError


def _twice(text: bool) -> Row:
    """Two calls in one turn, the second one with a nested argument; arguments as JSON text, too."""
    given = [{"at": "Brest"}, {"at": "Calais", "days": [1, {"from": "Ärmel"}]}]
    calls = [
        {"type": "function", "id": f"call0000{n}", "function": {"name": name, "arguments": each}}
        for n, (name, each) in enumerate(zip(("tide", "moon"), given, strict=True))
    ]
    for call in calls if text else ():
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    results = [{"role": "tool", "content": "16:40", "tool_call_id": call["id"]} for call in calls]
    turns = [user("Due when?"), said("", tool_calls=calls), *results, said("At 16:40.")]
    return {"messages": turns, "tools": [TOOL]}


ONE_CALL = ("llama3", "gpt-oss")
TAG, NESTED = "<tool_call>\n", '{"at": "Calais", "days": [1, {"from": "Ärmel"}]}'
SECOND = f'{{"name": "moon", "arguments": {NESTED}}}'
FIRST = '{"name": "tide", "arguments": {"at": "Brest"}}'
TWO_CALLS = {
    "qwen2.5": f"{TAG}{FIRST}\n</tool_call>\n{TAG}{SECOND}\n</tool_call><|im_end|>",
    "qwen3": f"{TAG}{FIRST}\n</tool_call>\n{TAG}{SECOND}\n</tool_call><|im_end|>",
    "qwen3-2507-thinking": f"\n</think>\n\n{TAG}{FIRST}\n</tool_call>\n{TAG}{SECOND}\n</tool_call>"
    "<|im_end|>",
    "mistral": f"[TOOL_CALLS] [{FIRST}, {SECOND}]</s>",
    "glm-4.5": "\n<tool_call>tide\n<arg_key>at</arg_key>\n<arg_value>Brest</arg_value>\n"
    "</tool_call>\n<tool_call>moon\n<arg_key>at</arg_key>\n<arg_value>Calais</arg_value>\n<arg_key>days</arg_key>"
    '\n<arg_value>[1, {"from": "Ärmel"}]</arg_value>\n</tool_call><|observation|>',
}


@pytest.mark.parametrize("name", [*TWO_CALLS, *ONE_CALL])
def test_calls_in_parallel_and_arguments_as_text(tmp_path: Path, name: str) -> None:
    """Learned as the template writes them, whichever form the row has, or refused."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    keys = {"stop_ids": family.stop_ids(tokenizer)}
    rows = [_twice(text) for text in (False, True)]
    if name in ONE_CALL:
        for row in rows:
            with pytest.raises(DataError, match="shows one tool call per turn"):
                prepared(tmp_path, [row], tokenizer, **keys)
        for row in rows:
            del row["messages"][1]["tool_calls"][0], row["messages"][2]
    made = [prepared(tmp_path, [row], tokenizer, **keys).train for row in rows]
    objects, texts = ([each.input_ids for each in train] for train in made)
    assert objects == texts
    assert [each.supervised for each in made[0]] == [each.supervised for each in made[1]]
    parts = [part for each in made[0] for part in learned(each, tokenizer)]
    assert "16:40" in tokenizer.decode(objects[-1])
    assert len(parts) == 2
    if name not in ONE_CALL:
        assert parts[0] == TWO_CALLS[name]
    assert NESTED in parts[0] or name == "glm-4.5"
    assert "At 16:40." in parts[1]


def test_a_template_may_take_arguments_as_text(tmp_path: Path) -> None:
    """DeepSeek-V3's does; one that writes an object as Python would is given text, too."""
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    source = FAMILIES["qwen2.5"].file.read_text("utf-8")
    assert "call.arguments | tojson + '" in source
    example = {}
    for form in ("call.arguments + '", "call.arguments ~ '", "call.arguments | tojson + '"):
        tokenizer.chat_template = source.replace("call.arguments | tojson + '", form)
        assert ChatTemplate(tokenizer).abilities.text_arguments == ("tojson" not in form)
        train = prepared(tmp_path, [_twice(False)], tokenizer).train
        example[form] = [each.input_ids for each in train]
    first, *others = example.values()
    assert [first, first] == others
