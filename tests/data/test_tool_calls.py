"""Tool calls in rows: arguments as objects or text, several in one turn, in every family."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import TOOL, Row, said, user
from tests.data.test_masks import learned, prepared
from tuner.data.chat.chat_template import ChatTemplate
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


ONE_CALL = ("llama3", "llama3.1", "llama3.2", "gpt-oss")
TAG, NESTED = "<tool_call>\n", '{"at": "Calais", "days": [1, {"from": "Ärmel"}]}'
SECOND = f'{{"name": "moon", "arguments": {NESTED}}}'
FIRST = '{"name": "tide", "arguments": {"at": "Brest"}}'
TWO_CALLS = {
    "qwen2.5": f"{TAG}{FIRST}\n</tool_call>\n{TAG}{SECOND}\n</tool_call><|im_end|>",
    "qwen3": f"{TAG}{FIRST}\n</tool_call>\n{TAG}{SECOND}\n</tool_call><|im_end|>",
    "qwen3-2507": f"{TAG}{FIRST}\n</tool_call>\n{TAG}{SECOND}\n</tool_call><|im_end|>",
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


BREST, CALAIS = ({"name": "tide", "arguments": {"at": at}} for at in ("Brest", "Calais"))
ONE, OTHER = (f"{TAG}{json.dumps(call)}\n</tool_call>" for call in (BREST, CALAIS))
THINKING = "<think>\nA tide.\n</think>\n\n"
# What a turn that calls a function may hold, and what is learned of it.
WRITTEN: dict[str, tuple[Any, str]] = {
    "a call": (BREST, ONE),
    "a list of calls": ([BREST, CALAIS], f"{ONE}\n{OTHER}"),
    "a list of one": ([BREST], ONE),
    "arguments as text": ({**BREST, "arguments": '{"at": "Brest"}'}, ONE),
    "parameters": ({"name": "tide", "parameters": {"at": "Brest"}}, ONE),
    "OpenAI's form": ([{"type": "function", "function": BREST}], ONE),
    "no arguments": ({"name": "tide"}, f'{TAG}{{"name": "tide", "arguments": {{}}}}\n</tool_call>'),
    "reasoning": (f"<think>A tide.</think>{json.dumps(BREST)}", THINKING + ONE),
}


def calling(value: Any) -> Row:
    text = value if isinstance(value, str) else json.dumps(value)
    turns = [
        {"from": "human", "value": "Due when?"},
        {"from": "function_call", "value": text},
        {"from": "observation", "value": "16:40"},
        {"from": "gpt", "value": "At 16:40."},
    ]
    return {"conversations": turns, "tools": json.dumps([TOOL])}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("name", ["qwen2.5", "qwen3"])
def test_a_turn_that_calls_a_function_is_learned_as_the_family_calls(
    tmp_path: Path, name: str, kind: str
) -> None:
    value, written = WRITTEN[kind]
    if (name, kind) == ("qwen2.5", "reasoning"):
        # Content to this family, which puts a line break between it and a call.
        written = f"{THINKING}\n{ONE}"
    tokenizer = FAMILIES[name].tokenizer()
    train = prepared(tmp_path, [calling(value)], tokenizer).train
    parts = [part for each in train for part in learned(each, tokenizer)]
    assert parts == [written + "<|im_end|>", "At 16:40.<|im_end|>"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("I look it up.", "is not JSON with its name and arguments"),
        ("I look. " + json.dumps(BREST), "is not JSON with its name and arguments"),
        ([], "an empty list of calls"),
        ([BREST, "moon"], "a tool call has no name"),
        ({"name": "tide", "args": {"at": "Brest"}}, "has the key 'args', which nothing reads"),
        ({**BREST, "parameters": {}}, "both arguments and parameters"),
    ],
)
def test_a_turn_that_calls_no_function_is_refused(tmp_path: Path, value: Any, problem: str) -> None:
    """It is not learned as plain text, and nothing of it is lost."""
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [calling(value)], FAMILIES["qwen2.5"].tokenizer())
    assert problem in str(caught.value.problems)


def _called(arguments: Any) -> Row:
    return {"type": "function", "function": {"name": "tide", "arguments": arguments}}


SPOILED = '{"name": "tide", "arguments": {"at": }'
# A call that is no JSON, in every form that files have.
NO_JSON: dict[str, Row] = {
    "a ShareGPT turn": calling(SPOILED),
    "a ShareGPT turn in words": calling("I look it up."),
    "OpenAI's arguments": {"messages": [user("q"), said("", tool_calls=[_called("{at: Brest}")])]},
    "Hermes's block": {"messages": [user("q"), said(f"<tool_call>\n{SPOILED}\n</tool_call>")]},
    "behind words": {"messages": [user("q"), said(f"I look.\n<tool_call>{SPOILED}</tool_call>")]},
    "a block in words": {"messages": [user("q"), said("<tool_call>I look.</tool_call>")]},
    "a block without an end": {"messages": [user("q"), said(f"<tool_call>\n{json.dumps(BREST)}")]},
    "a block without a name": {"messages": [user("q"), said('<tool_call>{"at": 1}</tool_call>')]},
}


@pytest.mark.parametrize("render", ["auto", "raw"])
@pytest.mark.parametrize("name", ["qwen3", "chatml"])
@pytest.mark.parametrize("kind", NO_JSON)
def test_a_call_that_is_no_json_is_a_bad_row_in_every_form(
    tmp_path: Path, kind: str, name: str, render: str
) -> None:
    """Never learned as text, also where the template has no form for calls; counted and named."""
    tokenizer = FAMILIES[name].tokenizer()
    row = {key: value for key, value in NO_JSON[kind].items() if key != "tools"}
    key, *_ = row
    turns = [{"role": "user", "content": "Due?"}, {"role": "assistant", "content": "Now."}]
    rows = [{key: turns}, row]
    if key == "conversations":
        turns = [{"from": "human", "value": "Due?"}, {"from": "gpt", "value": "Now."}]
        rows = [{key: turns}, {key: row[key][:2]}]
    report = prepared(tmp_path, rows, tokenizer, max_bad_rows=1, render=render).report
    (bad,) = report["skipped"]
    assert bad["row"] == "rows.jsonl:2"
    assert re.search("not JSON|has no </tool_call>|has no name", bad["reason"])
    assert any(text.startswith("1 bad row left out") for text in report["warnings"])


@pytest.mark.parametrize(
    "block",
    [
        f"<tool_call>\n{json.dumps(BREST)}\n</tool_call>",
        f"<tool_call>{json.dumps([BREST, CALAIS])}</tool_call>",
        "<tool_call>tide\n<arg_key>at</arg_key>\n<arg_value>Brest</arg_value>\n</tool_call>",
        "<tool_call>\n<function=tide>\n<parameter=at>\nBrest\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>tide</tool_call>",
        "Models write <tool_call>, JSON and </tool_call> for that.",
    ],
)
def test_text_that_is_a_call_or_speaks_of_one_is_learned(tmp_path: Path, block: str) -> None:
    tokenizer = FAMILIES["chatml"].tokenizer()
    (made,) = prepared(tmp_path, [{"messages": [user("q"), said(block)]}], tokenizer).train
    assert learned(made, tokenizer) == [block + "<|im_end|>"]


def test_calls_that_a_template_has_no_form_for_are_counted(tmp_path: Path) -> None:
    row = {"conversations": calling(BREST)["conversations"]}
    for name, count in (("chatml", 1), ("qwen3", 0)):
        tokenizer = FAMILIES[name].tokenizer()
        made = prepared(tmp_path, [row], tokenizer)
        assert made.report["rows_with_calls_as_text"] == count
        named = any(
            "1 row with calls that the chat template cannot show" in text
            for text in made.report["warnings"]
        )
        assert named == bool(count)
        assert (json.dumps(BREST) + "<|im_end|>" in learned(made.train[0], tokenizer)) == bool(
            count
        )


def test_calls_that_the_tools_do_not_have_are_named_first(tmp_path: Path) -> None:
    """And arguments that a schema requires; a row without tools says nothing of its calls."""
    schema = {**TOOL["function"]["parameters"], "required": ["at"]}
    tools = [{"type": "function", "function": {**TOOL["function"], "parameters": schema}}]
    moon = {"name": "moon", "arguments": {}}
    rows = [calling(value) for value in (BREST, moon, [moon, {"name": "tide"}])]
    rows = [{**row, "tools": tools} for row in rows]
    tokenizer = FAMILIES["qwen3"].tokenizer()
    report = prepared(tmp_path, rows, tokenizer).report
    assert report["calls_of_unknown_tools"] == {"moon": 2}
    assert report["calls_without_required_arguments"] == {"tide: at": 1}
    assert report["warnings"][:2] == [
        "calls of functions that the row's tools do not have: 'moon' (2 turns)",
        "calls without an argument that the row's tools require: 'tide: at' (1 turn)",
    ]
    for row in rows:
        del row["tools"]
    report = prepared(tmp_path, rows, tokenizer).report
    assert report["calls_of_unknown_tools"] == {}


def test_calls_as_json_text_are_calls(tmp_path: Path) -> None:
    """A table keeps the list as text; text that is no list is refused in words."""
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    calls = [{"type": "function", "function": BREST}]
    rows = [
        {"messages": [user("Due when?"), said("", tool_calls=each)], "tools": [TOOL]}
        for each in (calls, json.dumps(calls))
    ]
    one, other = prepared(tmp_path, rows, tokenizer).train
    assert one.input_ids == other.input_ids
    rows[0]["messages"][1]["tool_calls"] = "tide at Brest"
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows, tokenizer)
    assert "tool_calls is not a list of objects: rows.jsonl:1" in caught.value.problems


def test_of_several_named_templates_that_for_tools_is_used_with_tools(tmp_path: Path) -> None:
    """As transformers chooses it, in training and in the tokenizer that is exported."""
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    for_tools = tokenizer.chat_template
    plain = FAMILIES["chatml"].file.read_text("utf-8") + "\n"
    tokenizer.chat_template = {"default": plain, "tool_use": for_tools + "\n"}
    call = {"type": "function", "function": BREST}
    turns = [user("Due when?"), said("", tool_calls=[call])]
    rows = [{"messages": turns, "tools": [TOOL]}, {"messages": [user("Due?"), said("Now.")]}]
    result = prepared(tmp_path, rows, tokenizer)
    assert [learned(each, tokenizer) for each in result.train] == [
        [ONE + "<|im_end|>"],
        ["Now.<|im_end|>"],
    ]
    assert result.chat_template is not None
    for row, example in zip(rows, result.train, strict=True):
        text = tokenizer.apply_chat_template(
            row["messages"], tools=row.get("tools"), tokenize=False
        )
        assert text.startswith(tokenizer.decode(example.input_ids))
        exported = FAMILIES["chatml"].tokenizer()
        exported.chat_template = result.chat_template
        assert text == exported.apply_chat_template(
            row["messages"], tools=row.get("tools"), tokenize=False
        )
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{"messages": turns}], tokenizer)
    assert "shows calls only next to tools; there are none" in str(caught.value.problems)


def test_the_token_that_opens_the_next_turn_ends_a_call(tmp_path: Path) -> None:
    """GLM's: `<|observation|>` is learned after a call, `<|user|>` after an answer."""
    family = FAMILIES["glm-4.5"]
    tokenizer = family.tokenizer()
    call = {"type": "function", "function": BREST}
    turns = [user("Due?"), said("", tool_calls=[call]), {"role": "tool", "content": "16:40"}]
    turns += [said("At 16:40."), user("Why?"), said("So.")]
    row = {"messages": turns, "tools": [TOOL]}
    train = prepared(tmp_path, [row], tokenizer, stop_ids=family.stop_ids(tokenizer)).train
    parts = [part for each in train for part in learned(each, tokenizer)]
    ends = ("</tool_call><|observation|>", "At 16:40.<|user|>", "So.<|endoftext|>")
    assert [part.endswith(end) for part, end in zip(parts, ends, strict=True)] == [True] * 3
