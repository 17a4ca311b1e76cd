"""What a pipe asks `tuner chat`: one question, or JSON lines of messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.inference.conversation import chat, opened
from tuner.errors import DataError
from tuner.inference.asked import conversations

LETTER = "What is due?\n\nDear tenant,\n  the rent of May is late.\n\nThe landlord"
ASKED = {"role": "user", "content": "What is rent?"}
SAID = {"role": "assistant", "content": "Money."}
NEXT = {"role": "user", "content": "And notice?"}
RULE = {"role": "system", "content": "Be short."}


def lines(*items: Any) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LETTER, LETTER),
        (f"\ufeff\n{LETTER}\n\n", LETTER),
        ('{"a": 1}\n', '{"a": 1}'),
        ("{not json\n{either", "{not json\n{either"),
        ("/reset", "/reset"),
    ],
)
def test_a_text_is_one_question(text: str, found: str) -> None:
    assert conversations(text) == [[{"role": "user", "content": found}]]


def test_lines_of_messages_are_conversations() -> None:
    asked = [[ASKED], [RULE, ASKED, SAID, NEXT]]
    typed = lines(*({"messages": turns} for turns in asked))
    assert conversations(typed) == asked
    # One object over several lines, and the turns of one conversation line by line.
    assert conversations(json.dumps({"messages": asked[1]}, indent=2)) == asked[1:]
    assert conversations(lines(*asked[1])) == asked[1:]
    assert conversations(lines({"messages": [{"from": "human", "value": "x"}]})) == [
        [{"role": "user", "content": "x"}]
    ]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (lines({"messages": [ASKED]}) + "\nand then?\n", 3, "not a JSON object"),
        (lines({"messages": [ASKED]}, {"turns": []}), 2, "keys besides messages: turns"),
        (lines({"messages": [ASKED], "tools": []}), 1, "keys besides messages: tools"),
        (lines({"messages": [ASKED, SAID]}), 1, "the last turn has the role assistant"),
        (lines({"messages": []}), 1, "messages is empty"),
        (lines({"messages": [RULE, RULE, ASKED]}), 1, "more than one system turn"),
        (lines({"messages": [ASKED, RULE, NEXT]}), 1, "system turn is not the first"),
        (lines({"messages": "What?"}), 1, "not a list of turns"),
        (lines({"messages": [{**ASKED, "content": 7}]}), 1, "a turn has no text"),
        (lines({"messages": [{**ASKED, "role": "robot"}]}), 1, "unknown role"),
        (lines(ASKED, SAID), 1, "the last turn has the role assistant"),
    ],
)
def test_a_line_that_is_unlike_the_others(text: str, line: int, why: str) -> None:
    with pytest.raises(DataError, match=f"line {line} of the input") as caught:
        conversations(text)
    assert why in caught.value.why
    assert '{"messages": [{"role": "user"' in caught.value.fix


def test_the_events_hold_the_question(bases: Callable[..., Path]) -> None:
    """Several lines are one question, and each conversation is answered on its own."""
    base = bases("llama")
    (event,) = chat("--base", base, "--json", typed=LETTER + "\n").events
    assert event["question"] == LETTER
    typed = lines({"messages": [RULE, ASKED]}, {"messages": [NEXT]})
    events = chat("--base", base, "--json", typed=typed).events
    assert [event["question"] for event in events] == ["What is rent?", "And notice?"]
    model = opened(base)
    prompts = model.prompts_of(model.active)
    for asked, answered in (([RULE, ASKED], events[0]), ([NEXT], events[1])):
        assert answered["text"] == model.answer(prompts.ids(asked), 6).text
    by_line = chat("--base", base, "--lines", "--json", typed="What is rent?\n\nAnd notice?\n")
    assert [event["question"] for event in by_line.events] == ["What is rent?", "And notice?"]


def test_a_command_in_a_question_is_pointed_out(bases: Callable[..., Path]) -> None:
    done = chat("--base", bases("llama"), "--json", typed="What is rent?\n/save talk.jsonl\n")
    warning, answer = done.events
    assert "commands need --lines" in warning["text"]
    assert answer["question"] == "What is rent?\n/save talk.jsonl"


def test_an_empty_pipe_is_an_error(bases: Callable[..., Path]) -> None:
    done = chat("--base", bases("llama"), typed=" \n")
    assert (done.returncode, done.stdout) == (3, "")
    assert "nothing is asked" in done.stderr
