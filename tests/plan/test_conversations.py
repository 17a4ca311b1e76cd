"""How a plan says that answers are asked for, and which tokens the rows want."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model.test_conversation import ROWS, planned, prompt, settled
from tests.tokenizers import make_tokenizer
from tuner.errors import RecipeError


def several(*answers: bool) -> dict[str, Any]:
    """A conversation with answers that come with reasoning, or without."""
    row: dict[str, Any] = {"messages": []}
    for number, reasons in enumerate(answers):
        answer = {"role": "assistant", "content": f"{number}."}
        answer |= {"reasoning_content": "It is so."} if reasons else {}
        row["messages"] += [{"role": "user", "content": f"{number}?"}, answer]
    return row


@pytest.mark.parametrize(
    ("answers", "learn", "sent", "said"),
    [
        ((True, True, False), "answers", True, "8 of 12 answers"),
        ((True, False, False), "answers", False, "4 of 12 answers"),
        ((True, True, False), "last_answer", False, "0 of 4 rows"),
    ],
)
def test_what_most_learned_answers_have_is_sent_by_default(
    make_recipe: Callable[..., Path],
    answers: tuple[bool, ...],
    learn: str,
    sent: bool,
    said: str,
) -> None:
    """Agents reason before their calls, and not before the answer that ends a row."""
    model: dict[str, Any] = {"chat_template": "qwen3"}
    rows = [several(*answers) for _ in range(4)]
    data = {"template": "auto", "eval": 0, "learn": learn}
    made = planned(make_recipe(data_rows=rows, data=data, model=model))
    assert prompt(made.tokenizer) == prompt(made.tokenizer, enable_thinking=sent)
    origin = made.values["data.reasoning"].origin
    assert (f"4 of 4 rows have some, in {said}" in origin) == (learn == "answers")
    if not sent:
        assert said in made.values["model.chat_arguments"].origin
    # Who asks for the other kind is told so, and who asks for this one is not.
    for asked in (sent, not sent):
        model["chat_arguments"] = {"enable_thinking": asked}
        recipe = make_recipe(data_rows=rows, data=data, model=model)
        warnings = [each for each in planned(recipe).warnings if "model.chat_arguments" in each]
        assert len(warnings) == (asked != sent)
        assert all(f"({said})" in each for each in warnings)


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("plain", ["<think>", "</think>"]),
        ("earlier", []),
        ("tools", ["<think>", "</think>", "<tool_call>", "</tool_call>"]),
    ],
)
def test_tags_that_the_base_splits_are_named(
    make_recipe: Callable[..., Path], kind: str, tokens: list[str]
) -> None:
    """Those that the template writes in these rows, and the line that is printed adds them."""
    rows = [dict(row) for row in ROWS]
    template = "qwen3"
    if kind == "tools":
        tool = {"type": "function", "function": {"name": "tide", "parameters": {}}}
        rows = [{**row, "tools": [tool]} for row in rows]
    elif kind == "earlier":
        template = "chatml"
    model: dict[str, Any] = {"chat_template": template}
    data = {"template": "auto", "eval": 0}
    first = planned(make_recipe(data_rows=rows, data=data, model=model)).warnings[:1]
    line = f"model.new_tokens: {json.dumps(tokens)}"
    assert ([line in each for each in first] == [True]) == bool(tokens)
    if tokens:
        model["new_tokens"] = json.loads(first[0].partition("model.new_tokens: ")[2])
        made = planned(make_recipe(data_rows=rows, data=data, model=model))
        assert not any("several tokens" in each for each in made.warnings)
        assert not any("is in no training row" in each for each in made.warnings)


def test_a_missing_template_token_is_added_with_those_of_reasoning(tmp_path: Path) -> None:
    for name, tags in (("deepseek-r1", True), ("qwen3", True), ("chatml", False)):
        with pytest.raises(RecipeError) as caught:
            settled(make_tokenizer("plain"), tmp_path, chat_template=name)
        assert ('"<think>", "</think>"]' in caught.value.fix) == tags
