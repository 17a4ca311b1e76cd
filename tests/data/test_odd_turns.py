"""Unusual turns and templates: refused in words, or counted, never dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import CALL, TOOL, said, user
from tests.data.test_masks import learned, prepared
from tests.tokenizers import CHATML_TEMPLATE, make_tokenizer
from tuner.errors import DataError, ModelError, RecipeError
from tuner.model import conversation
from tuner.recipe.schema_model import ModelSection

SYSTEM = {"role": "system", "content": "Be brief."}
RESULT = {"role": "tool", "content": "16:40"}
CALLED = said("", tool_calls=[CALL])
BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "two systems": ([SYSTEM, SYSTEM, user("q"), said("a")], "more than one system turn"),
    "a late system": ([user("q"), SYSTEM, said("a")], "system turn is not the first"),
    "the assistant first": ([said("a"), user("q"), said("b")], "the assistant speaks first"),
    "an empty answer": ([user("q"), said(" "), user("r"), said("a")], "the answer is empty"),
    "no text": ([user("q"), {"role": "user"}, said("a")], "a user turn has no text"),
    "a result first": ([user("q"), RESULT, said("a")], "after a call"),
    "a result of no call": (
        [user("q"), CALLED, {**RESULT, "tool_call_id": "other"}, said("a")],
        "answers the call 'other', which no turn made",
    ),
    "both keys of calls": (
        [user("q"), {**CALLED, "function_call": {"name": "tide", "arguments": "{}"}}],
        "both function_call and tool_calls",
    ),
    "an old call without json": (
        [user("q"), {"role": "assistant", "function_call": {"name": "t", "arguments": "x"}}],
        "are not JSON",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_turns_are_refused_in_words(tmp_path: Path, kind: str) -> None:
    turns, problem = BAD[kind]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{"messages": turns, "tools": [TOOL]}], FAMILIES["qwen3"].tokenizer())
    assert problem in str(caught.value.problems)


def test_a_system_turn_alone_is_no_conversation(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{"messages": [SYSTEM]}], FAMILIES["qwen3"].tokenizer(), learn="all")
    assert "there is only a system turn" in str(caught.value.problems)


def test_unusual_turns_are_counted(tmp_path: Path) -> None:
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    rows = [
        {"messages": [user("q"), user("r"), said("a"), said("b")]},
        {"messages": [user("q"), said("I call tide."), RESULT, said("a")]},
        {"messages": [user("q"), CALLED, RESULT, RESULT, said("a")], "tools": [TOOL]},
        {"messages": [user("q"), said("a")]},
    ]
    report = prepared(tmp_path, rows, tokenizer).report
    assert report["rows_with_consecutive_turns"] == 1
    assert report["rows_with_results_without_calls"] == 1
    said_of = " ".join(report["warnings"])
    assert "1 row with two turns of one speaker in a row" in said_of
    assert "1 row with the result of a tool after a turn that has no tool_calls" in said_of


def test_calls_that_a_template_cannot_show_are_named(tmp_path: Path) -> None:
    """A turn in words of its own is learned as it is, and counted; calls in OpenAI's form are
    refused, with a template that shows them."""
    tokenizer = FAMILIES["chatml"].tokenizer()
    text = '{"name": "tide", "arguments": {"at": "Brest"}}'
    turns = [user("When?"), {"role": "tool_call", "content": text}]
    turns += [{"role": "tool_response", "content": "16:40"}, said("At 16:40.")]
    result = prepared(tmp_path, [{"messages": turns}], tokenizer)
    assert learned(result.train[0], tokenizer)[0] == text + "<|im_end|>"
    assert result.report["rows_with_calls_as_text"] == 1
    assert "1 row with calls that the chat template cannot show" in " ".join(
        result.report["warnings"]
    )
    turns = [user("When?"), said("", tool_calls=[CALL]), RESULT, said("At 16:40.")]
    for tools in ({}, {"tools": [TOOL]}):
        with pytest.raises(DataError) as caught:
            prepared(tmp_path, [{"messages": turns, **tools}], tokenizer)
        assert "set model.chat_template to one that" in str(caught.value)
    conversation.settle(tokenizer, ModelSection(base="b", chat_template="qwen3"), tmp_path)
    result = prepared(tmp_path, [{"messages": turns}], tokenizer)
    assert result.report["rows_with_calls_as_text"] == 0


def test_the_old_key_of_a_call_is_a_call(tmp_path: Path) -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    call = {"name": "tide", "arguments": '{"at": "Brest"}'}
    old = [
        user("When?"),
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "tide", "content": "16:40"},
        said("At 16:40."),
    ]
    new = [user("When?"), said("", tool_calls=[CALL]), RESULT, said("At 16:40.")]
    rows = [{"messages": turns, "tools": [TOOL]} for turns in (old, new)]
    one, other = (prepared(tmp_path, [row], tokenizer).train for row in rows)
    assert [row.input_ids for row in one] == [row.input_ids for row in other]
    assert "tide" in "".join(learned(one[0], tokenizer))


ROW = {"messages": [user("Due?"), said("Now."), user("Why?"), said("So.")]}


def test_text_after_answers_is_named(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("chatml")
    plain = prepared(tmp_path, [ROW], tokenizer).report
    assert plain["text_after_answers"] == {}
    tokenizer.chat_template = CHATML_TEMPLATE.replace("'<|im_end|>'", "'\nEND'")
    report = prepared(tmp_path, [ROW, ROW], tokenizer).report
    assert report["text_after_answers"] == {"END": 2}
    assert any("after answers" in text and "'END'" in text for text in report["warnings"])
    tokenizer.chat_template = CHATML_TEMPLATE + "{% if not add_generation_prompt %}Bye.{% endif %}"
    assert prepared(tmp_path, [ROW], tokenizer).report["text_after_answers"] == {"Bye.": 1}


def test_answers_in_the_middle_without_a_stop_token_are_counted(tmp_path: Path) -> None:
    """Only the last one has a stop token then, which is put behind it; what comes behind the others
    is context."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    rows = [ROW, {"messages": ROW["messages"][:2]}]
    made = prepared(tmp_path, rows, tokenizer)
    assert learned(made.train[0], tokenizer) == ["Now.", "So.<|im_end|>"]
    assert made.report["rows_with_unended_answers"] == 1
    assert any("1 row with answers before the last one" in each for each in made.report["warnings"])


def test_a_template_that_reorders_turns_is_named(tmp_path: Path) -> None:
    """Mistral's older ones write the system turn into the last question."""
    tokenizer = make_tokenizer("chatml")
    rows = [{"messages": [SYSTEM, user("Due?"), said("Now.")]}, ROW]
    assert prepared(tmp_path, rows, tokenizer).report["rows_with_moved_turns"] == 0
    tokenizer.chat_template = (
        "{% set first = messages[0].role == 'system' %}"
        "{% for message in (messages[1:] if first else messages) %}"
        "{{ '<|im_start|>' + message.role + '\n' + message.content }}"
        "{% if first and message.role == 'user' and loop.index0 >= loop.length - 2 %}"
        "{{ '\n' + messages[0].content }}{% endif %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    result = prepared(tmp_path, rows, tokenizer)
    assert result.report["rows_with_moved_turns"] == 1
    assert any("moves or repeats" in text for text in result.report["warnings"])


def test_the_line_of_a_template_error_is_shown(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("chatml")
    head = "{% for m in messages %}\n{{ m.content }}\n{% endfor %}\n"
    tokenizer.chat_template = head + "{{ raise_exception('no thanks') if messages|length > 1 }}"
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [ROW], tokenizer)
    assert "no thanks (line 4: {{ raise_exception(" in str(caught.value.problems)
    tokenizer.chat_template = head + "{% if %}"
    with pytest.raises(ModelError, match=r"\(line 4: \{% if %\}\)"):
        prepared(tmp_path, [ROW], tokenizer)


def test_an_empty_template_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jinja").write_text(" \n", "utf-8")
    with pytest.raises(RecipeError, match=r"none\.jinja is empty"):
        conversation.settle(
            make_tokenizer("chatml"), ModelSection(chat_template="none.jinja"), tmp_path
        )


def test_text_after_calls_is_named(tmp_path: Path) -> None:
    """Not only that after the last turn."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = (
        "{{ tools | tojson if tools }}{% for m in messages %}"
        "{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
        "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}{{ '<|im_end|>' }}"
        "{% if m.tool_calls %}WAIT{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    row = {"messages": [user("When?"), CALLED, RESULT, said("At 16:40.")], "tools": [TOOL]}
    assert prepared(tmp_path, [row], tokenizer).report["text_after_answers"] == {"WAIT": 1}


def test_turns_that_are_moved_are_counted_for_templates_that_open_the_reasoning(
    tmp_path: Path,
) -> None:
    tokenizer = FAMILIES["deepseek-r1"].tokenizer()
    rows = [{"messages": [SYSTEM, user("Due?"), said("Now.")]}, ROW]
    assert prepared(tmp_path, rows, tokenizer).report["rows_with_moved_turns"] == 0
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{%- if add_generation_prompt",
        "{%- if messages[0].role == 'system' -%}{{- messages[0].content -}}{%- endif -%}"
        "{%- if add_generation_prompt",
    )
    assert prepared(tmp_path, rows, tokenizer).report["rows_with_moved_turns"] == 1


def test_two_answers_in_a_row_that_a_template_shows_in_two_ways_are_a_bad_row(
    tmp_path: Path,
) -> None:
    """Qwen3 writes an empty block into the first only while it is the last one."""
    tokenizer = FAMILIES["qwen3"].tokenizer()
    rows = [ROW, {"messages": [user("Due?"), said("Now."), said("And soon.")]}]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows, tokenizer)
    assert "two assistant turns follow each other" in str(caught.value.problems)
    assert "rows.jsonl:2" in str(caught.value.problems)
    assert len(prepared(tmp_path, rows, tokenizer, max_bad_rows=1).train) == 2


def test_a_template_that_cannot_be_trained_on_is_refused_with_a_row(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = CHATML_TEMPLATE.replace(
        "assistant\n' }}{% endif", "bot\n' }}{% endif"
    )
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [ROW], tokenizer)
    assert caught.value.why.startswith("rows.jsonl:1: ")


def test_tags_of_reasoning_in_the_middle_of_an_answer_are_a_bad_row(tmp_path: Path) -> None:
    """Not the template's fault: the other rows are trained."""
    text = "Write <think> and </think> as text."
    rows = [ROW, {"messages": [user("Due?"), said(text)]}]
    tokenizer = FAMILIES["qwen3"].tokenizer()
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows, tokenizer)
    (problem,) = caught.value.problems
    assert problem.startswith("the text of an answer has <think> and </think>, which the model's")
    assert problem.endswith("rows.jsonl:2")
    assert caught.value.fix.endswith("skip it: data.max_bad_rows: 1")
    kept = prepared(tmp_path, rows, tokenizer, max_bad_rows=1)
    assert {example.row for example in kept.train} == {"rows.jsonl:1"}
    # Another template leaves the text as it is.
    assert len(prepared(tmp_path, rows, FAMILIES["chatml"].tokenizer()).train) == 2


def test_reasoning_of_the_user_is_a_key_that_nothing_reads(tmp_path: Path) -> None:
    rows = [{"messages": [{**user("Due?"), "reasoning_content": "Hm."}, said("Now.", "So.")]}]
    for name in ("qwen3", "gpt-oss", "chatml"):
        family = FAMILIES[name]
        tokenizer = family.tokenizer()
        report = prepared(tmp_path, rows, tokenizer, stop_ids=family.stop_ids(tokenizer)).report
        assert report["unread_turn_keys"] == {"reasoning_content": 1}
        assert any("'reasoning_content' (1 turn)" in text for text in report["warnings"])


def test_empty_turns_of_the_user_are_named(tmp_path: Path) -> None:
    bare = {"messages": [user("Due?"), CALLED, {**RESULT, "content": ""}, said("Now.")]}
    rows = [ROW, {"messages": [user(" \n"), said("Now.")]}, {**bare, "tools": [TOOL]}]
    report = prepared(tmp_path, rows, FAMILIES["qwen3"].tokenizer()).report
    assert report["rows_with_empty_turns"] == ["rows.jsonl:2"]
    wanted = "1 row with an empty turn of the user or the system: rows.jsonl:2"
    assert wanted in report["warnings"]


def test_other_forms_of_reasoning_are_named(tmp_path: Path) -> None:
    """They are learned as the text that they are."""
    texts = ["<thinking>\nSo.\n</thinking>\n\nNow.", "<Thought>So.</Thought> Now.", "Now.", "<b>x"]
    rows = [{"messages": [user("Due?"), said(text)]} for text in texts]
    report = prepared(tmp_path, rows, FAMILIES["qwen3"].tokenizer()).report
    assert report["rows_with_other_reasoning"] == ["rows.jsonl:1", "rows.jsonl:2"]
    (warning,) = (text for text in report["warnings"] if "<thinking>" in text)
    assert "rows.jsonl:1, rows.jsonl:2" in warning
    assert report["rows_with_reasoning"] == 0


EVERY: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "a weight": ([user("Due?"), said("Now.", weight=-1)], {}, "correct the turns of the rows"),
    "an open block": ([user("Due?"), said("<think>Now.")], {}, "correct the turns of the rows"),
    "a greeting": ([said("Hi."), user("Due?"), said("Now.")], {}, "correct the turns of the rows"),
    "tools": ([user("Due?"), said("Now.")], {"tools": "none"}, "correct the turns of the rows"),
    "a call": ([user("Due?"), CALLED, said("Now.")], {}, "correct the turns of the rows"),
    "no answer": ([user("Due?"), said(None)], {}, "data.columns"),
}


@pytest.mark.parametrize("fault", EVERY)
def test_where_all_rows_have_a_fault_in_their_turns_no_columns_are_asked_for(
    tmp_path: Path, fault: str
) -> None:
    turns, extras, fix = EVERY[fault]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [{"messages": turns, **extras}] * 2, FAMILIES["qwen3"].tokenizer())
    assert caught.value.what == "none of the 2 rows can be used for training"
    assert fix in caught.value.fix
    assert ("data.columns" in caught.value.fix) == (fix == "data.columns")


@pytest.mark.parametrize(
    ("template", "fault", "count"),
    [
        ("(message.content | upper)", "changes the text of a user turn", 2),
        ("(message.content if message.role != 'system' else '')", "leaves out a system turn", 1),
    ],
)
def test_where_the_template_is_at_fault_another_is_asked_for(
    tmp_path: Path, template: str, fault: str, count: int
) -> None:
    """And the one that is named shows the rows."""
    tokenizer = make_tokenizer("chatml")
    old = tokenizer.chat_template
    assert "message['content']" in old
    tokenizer.chat_template = old.replace("message['content']", template)
    rows = [ROW, {"messages": [SYSTEM, user("Due?"), said("Now.")]}]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows, tokenizer)
    assert fault in str(caught.value.problems)
    assert "name one that shows such rows in model.chat_template: chatml" in caught.value.fix
    assert ("data.max_bad_rows: 1" in caught.value.fix) == (count == 1)
    conversation.settle(tokenizer, ModelSection(chat_template="chatml"), tmp_path)
    assert prepared(tmp_path, rows, tokenizer).report["bad_rows"] == 0


def test_reasoning_that_some_rows_lack_is_named_with_its_key(tmp_path: Path) -> None:
    rows = [
        {"question": f"{n}?", "answer": f"{n}.", "rationale": "So." if n % 2 else ""}
        for n in range(4)
    ]
    tokenizer = FAMILIES["qwen3"].tokenizer()
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows, tokenizer)
    (problem,) = caught.value.problems
    assert problem.startswith(
        "the column 'rationale' is empty (data.reasoning_column: rationale reads such rows, too)"
    )
    report = prepared(tmp_path, rows, tokenizer, reasoning_column="rationale").report
    assert (report["rows_train"], report["rows_with_reasoning"]) == (4, 2)
