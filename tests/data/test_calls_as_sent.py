"""Tools and calls of rows in the forms that files have them are trained as requests send them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import TOOL, Row, said, user
from tests.data.test_masks import learned, prepared
from tuner.data.tokens.conversation import Prompts
from tuner.errors import DataError
from tuner.inference import chat_tools
from tuner.inference.serve.protocol import ChatAsk
from tuner.inference.serve.tools import in_order

SCHEMA = TOOL["function"]
BARE = {
    "a bare schema": {"tools": [SCHEMA]},
    "a column of functions": {"functions": [SCHEMA]},
    "JSON text": {"tools": json.dumps([SCHEMA])},
    "OpenAI's responses": {"tools": [{"type": "function", **SCHEMA}]},
    "no type": {"tools": [{"function": SCHEMA}]},
}
BREST, MOON = ({"name": name, "arguments": {"at": "Brest"}} for name in ("tide", "moon"))
RESULT = {"role": "tool", "content": "16:40"}


def calls(*functions: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": each} for each in functions]


def tagged(*functions: Any) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(each)}\n</tool_call>" for each in functions)


TURNS = [user("Due?"), said("", tool_calls=calls(BREST)), RESULT, said("At 16:40.")]


@pytest.mark.parametrize("form", BARE)
def test_bare_schemas_are_trained_as_they_are_sent(tmp_path: Path, form: str) -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    whole = prepared(tmp_path, [{"messages": TURNS, "tools": [TOOL]}], tokenizer)
    result = prepared(tmp_path, [{"messages": TURNS, **BARE[form]}], tokenizer)
    assert result.train == whole.train
    assert (whole.report["rows_with_bare_tools"], result.report["rows_with_bare_tools"]) == (0, 1)
    said_so = [text for text in result.report["warnings"] if "bare schemas" in text]
    assert said_so == [
        '1 row with tools as bare schemas: read as {"type": "function", "function": SCHEMA}, the '
        "form in which requests have them"
    ]
    # An earlier version trained them as they were.
    assert prepared(
        tmp_path, [{"messages": TURNS, **BARE[form]}], tokenizer, earlier=True
    ).train != (whole.train)
    (key, tools), *_ = BARE[form].items()
    (tmp_path / "tools.json").write_text(json.dumps({key: tools}), "utf-8")
    assert chat_tools.read(str(tmp_path / "tools.json")) == [TOOL]
    if isinstance(tools, list):
        ask = ChatAsk.model_validate({"model": "m", "messages": [user("Due?")], "tools": tools})
        assert ask.shown_tools == [TOOL]
        assert list(ask.shown_tools[0]) == ["type", "function"]


WRITTEN: dict[str, tuple[str, Row]] = {
    "a call": (tagged(BREST), said("", tool_calls=calls(BREST))),
    "two": (tagged(BREST, MOON), said("", tool_calls=calls(BREST, MOON))),
    "content": (f"I look.\n{tagged(BREST)}\n", said("I look.", tool_calls=calls(BREST))),
    "reasoning": (
        f"<think>\nA tide.\n</think>\n\nI look.\n{tagged(BREST)}",
        said("I look.", "A tide.", tool_calls=calls(BREST)),
    ),
}


@pytest.mark.parametrize("tools", [True, False], ids=["tools", "no tools"])
@pytest.mark.parametrize("end", ["answered", "called"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_calls_in_the_text_of_answers_are_calls(
    tmp_path: Path, kind: str, end: str, tools: bool
) -> None:
    """With the special tokens of the template, which an answer has when it is sent back."""
    tokenizer = FAMILIES["qwen3"].tokenizer()
    text, turn = WRITTEN[kind]
    more = [RESULT, RESULT, said("At 16:40.")] if end == "answered" else []
    extras = {"tools": [TOOL]} if tools else {}
    written, called = (
        {"messages": [user("Due?"), each, *more], **extras} for each in (said(text), turn)
    )
    wanted, result = (prepared(tmp_path, [row], tokenizer) for row in (called, written))
    assert result.train == wanted.train
    report = result.report
    assert (report["rows_with_calls_in_text"], report["rows_with_unread_calls"]) == (1, 0)
    assert (report["special_tokens_in_text"], wanted.report["rows_with_calls_in_text"]) == (0, 0)
    assert report["rows_with_results_without_calls"] == 0
    assert any("read as calls" in each for each in report["warnings"])
    # The prompts of chat, serve and held-out rows hold the same.
    asked = result.sent.trained[-1]
    prompts = Prompts(tokenizer, [])
    sent = prompts.ids([user("Due?"), said(text), *more[:-1], user("Why?")], extras.get("tools"))
    same = prompts.ids([user("Due?"), turn, *more[:-1], user("Why?")], extras.get("tools"))
    assert (sent == same) == (end == "answered")
    assert prompts.ids(asked.turns, asked.tools, asked.arguments) == asked.ids
    # A run that an earlier version began goes on with the characters.
    earlier = prepared(tmp_path, [written], tokenizer, earlier=True)
    assert earlier.report["special_tokens_in_text"] > 0
    assert earlier.train != wanted.train


LITERAL = {
    "text behind": tagged(BREST) + "\nWait.",
    "text between": f"{tagged(BREST)}\nAnd\n{tagged(MOON)}",
    "GLM's form": "<tool_call>tide\n<arg_key>at</arg_key>\n<arg_value>Brest</arg_value>"
    "\n</tool_call>",
}


@pytest.mark.parametrize("kind", LITERAL)
def test_other_text_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    row = {"messages": [user("Due?"), said(LITERAL[kind]), RESULT, said("Now.")], "tools": [TOOL]}
    result, earlier = (prepared(tmp_path, [row], tokenizer, earlier=each) for each in (False, True))
    assert result.train == earlier.train
    assert result.report["rows_with_calls_in_text"] == 0
    assert result.report["rows_with_results_without_calls"] == 1


def test_calls_that_a_template_cannot_show_stay_text(tmp_path: Path) -> None:
    """Or those without a result: such calls could not be sent. Both are counted."""
    two = {"messages": [user("Due?"), said(tagged(BREST, MOON))], "tools": [TOOL]}
    beside = {"messages": [user("Due?"), said(f"I look.\n{tagged(BREST)}")], "tools": [TOOL]}
    alone = {"messages": [user("Due?"), said(tagged(BREST))]}
    no_result = {"messages": [user("Due?"), said(tagged(BREST)), user("And?"), said("Now.")]}
    for name, rows in (("llama3.1", [two, beside]), ("chatml", [alone]), ("qwen3", [no_result])):
        tokenizer = FAMILIES[name].tokenizer()
        result = prepared(tmp_path, rows, tokenizer)
        assert result.train == prepared(tmp_path, rows, tokenizer, earlier=True).train
        assert result.report["rows_with_calls_in_text"] == 0
        assert result.report["rows_with_unread_calls"] == len(rows)
        assert any("are learned as text" in text for text in result.report["warnings"])
        for each in result.sent.trained:
            prompt = Prompts(tokenizer, []).ids(each.turns, each.tools, each.arguments)
            assert prompt == each.ids


def test_a_template_writes_calls_of_a_text_in_its_own_form(tmp_path: Path) -> None:
    tokenizer = FAMILIES["llama3.1"].tokenizer()
    row = {"messages": [user("Due?"), said(tagged(BREST))], "tools": [TOOL]}
    (part,) = learned(prepared(tmp_path, [row], tokenizer).train[0], tokenizer)
    assert part == '{"name": "tide", "parameters": {"at": "Brest"}}<|eot_id|>'


def test_calls_without_results_are_refused_as_in_requests(tmp_path: Path) -> None:
    """But for the last turn's, and several calls may have one result."""
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    named = [{**each, "id": f"c{n}"} for n, each in enumerate(calls(BREST, MOON))]
    asked, both = user("Due?"), said("", tool_calls=named)
    one = {**RESULT, "tool_call_id": "c1"}
    bad = {
        "user": [asked, both, user("And?"), said("Now.")],
        "assistant": [asked, both, said("Now.")],
    }
    good = [[asked, both], [asked, both, one, said("Now.")]]
    for who, turns in bad.items():
        with pytest.raises(DataError) as caught:
            prepared(tmp_path, [{"messages": good[0]}, {"messages": turns}], tokenizer)
        wanted = f"a turn of the {who} follows a call that has no result"
        assert caught.value.problems[0].startswith(wanted)
        assert "rows.jsonl:2" in caught.value.problems[0]
        with pytest.raises(ValueError, match="the call 'c0' has no result after it"):
            in_order(turns)
        assert prepared(tmp_path, [{"messages": turns}], tokenizer, earlier=True).train
    report = prepared(tmp_path, [{"messages": turns} for turns in good], tokenizer).report
    assert report["rows_with_missing_results"] == ["rows.jsonl:2"]
    assert "1 row with fewer results than calls in a turn: rows.jsonl:2" in report["warnings"]
    assert in_order(good[1]) == good[1]
