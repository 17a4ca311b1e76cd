"""Reasoning apart from the answer: in whole texts and in texts that are still being written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import said, user
from tests.data.test_masks import learned, prepared
from tuner.data.turns import reasoning

TEXTS = [
    ("<think>\nOne.\nTwo.\n</think>\n\nNow.", False, "One.\nTwo.", "Now."),
    ("One.</think>Now.", True, "One.", "Now."),
    ("\n</think>\n\nNow.", True, "", "Now."),
    ("<think></think>\n\n  Now.", False, "", "  Now."),
    ("Now.", False, "", "Now."),
    ("  Now. ", False, "", "  Now. "),
    ("I close </think> nothing.", False, "", "I close </think> nothing."),
    ("A <think> in the middle</think>.", False, "", "A <think> in the middle</think>."),
    ("<", False, "", "<"),
    ("<thin", False, "", "<thin"),
    ("<think>\nOne <b> and </b", False, "One <b> and </b", ""),
    ("Still at it", True, "Still at it", ""),
]


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "opened", "thought", "answer"), TEXTS, ids=lambda each: repr(each)
)
def test_a_stream_is_split_as_the_whole_text_is(
    text: str, opened: bool, thought: str, answer: str, size: int
) -> None:
    splitter = reasoning.Splitter(opened)
    said, written = "", ""
    for start in range(0, len(text), size):
        one, other = splitter.feed(text[start : start + size], start + size >= len(text))
        said, written = said + one, written + other
    assert (said, written) == (thought, answer)
    if reasoning.CLOSE in text:
        assert reasoning.cut(text, opened) == (thought, answer)


def test_separated_turns_are_separated_once() -> None:
    turn = {"role": "assistant", "content": "<think>One.</think>Now."}
    once = reasoning.separated(turn)
    assert once == {"role": "assistant", "content": "Now.", reasoning.KEY: "One."}
    assert reasoning.separated(once) == once
    assert reasoning.separated({"role": "user", "content": "<think>x</think>y"})["content"] == (
        "<think>x</think>y"
    )
    assert reasoning.inline(once) == "<think>\nOne.\n</think>\n\nNow."
    assert reasoning.cut(reasoning.inline(once)) == ("One.", "Now.")


OWN = """name: own
description: a problem with its reasoning
columns: {required: [problem, because, solution]}
turns:
  - {role: user, content: "{{ problem }}"}
  - {role: assistant, content: "<think>\\n{{ because }}\\n</think>\\n\\n{{ solution }}"}
"""
BLOCK = "<think>\nOne.\n</think>\n\nNow."


@pytest.mark.parametrize("name", ["qwen3", "glm-4.5", "deepseek-r1", "gpt-oss", "chatml"])
def test_reasoning_in_the_answers_of_any_data_template(tmp_path: Path, name: str) -> None:
    """The base's own block in a text is none of its control tokens that a row forges."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    (tmp_path / "own.yaml").write_text(OWN, "utf-8")
    found = []
    for row, template in (
        ({"messages": [user("Due?"), said("Now.", "One.")]}, "auto"),
        ({"instruction": "Due?", "input": "", "output": BLOCK}, "auto"),
        ({"question": "Due?", "answer": BLOCK}, "auto"),
        ({"problem": "Due?", "because": "One.", "solution": "Now."}, "own.yaml"),
    ):
        keys = {"stop_ids": family.stop_ids(tokenizer), "template": template}
        result = prepared(tmp_path, [row], tokenizer, **keys)
        assert result.report["rows_with_reasoning"] == 1
        assert result.report["special_tokens_in_text"] == 0
        found.append(result.train[0])
    assert len({(tuple(each.input_ids), tuple(each.supervised)) for each in found}) == 1
    assert "One." in "".join(learned(found[0], tokenizer))
