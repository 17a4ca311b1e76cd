"""What is recognised without a word in the recipe: conversations in the shapes that files have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_read import write_rows
from tests.tokenizers import make_tokenizer
from tuner.data.prompts import PromptData
from tuner.data.reading.transcripts import transcript
from tuner.data.sft import SftData
from tuner.data.templates.template import load_template
from tuner.data.tokens.prepared import Inputs, Prepared
from tuner.data.turns.turn_lists import messages_of, shape
from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.schema import strict_yaml


def inputs(folder: Path, rows: list[Any], **keys: Any) -> Inputs:
    write_rows(folder / "rows.jsonl", rows)
    data = DataSection(**({"train": "rows.jsonl", "eval": 0} | keys))
    return Inputs(data, make_tokenizer("chatml"), folder, 7, 512)


def prepared(folder: Path, rows: list[Any], **keys: Any) -> Prepared:
    return SftData(inputs(folder, rows, **keys)).prepare()


def texts(result: Prepared) -> list[str]:
    tokenizer = make_tokenizer("chatml")
    return [tokenizer.decode(example.input_ids) for example in result.train]


def pair(role: str, content: str, asked: str, answering: str) -> list[dict[str, str]]:
    return [{role: asked, content: "Is it {}?"}, {role: answering, content: "Yes, {}."}]


QA = "<|im_start|>user\nIs it {}?<|im_end|>\n<|im_start|>assistant\nYes, {}.<|im_end|>\n"
TWO = ["damp", "dry"]
OPENAI = pair("role", "content", "user", "assistant")
# By what it is: a row with {} for a word, and the name of the template.
SHAPES: dict[str, tuple[Any, str]] = {
    "OpenAI": ({"messages": OPENAI}, "chat"),
    "role in conversations": ({"conversations": OPENAI}, "chat"),
    "role in conversation": ({"conversation": OPENAI}, "chat"),
    "role in dialogue": ({"dialogue": OPENAI}, "chat"),
    "role in dialog": ({"dialog": OPENAI}, "chat"),
    "role in turns": ({"turns": OPENAI}, "chat"),
    "a name that no template has": ({"chat_log": OPENAI, "id": "7"}, "chat"),
    "ShareGPT": ({"conversations": pair("from", "value", "human", "gpt")}, "sharegpt"),
    "from in messages": ({"messages": pair("from", "value", "user", "chatgpt")}, "sharegpt"),
    "bot": ({"messages": pair("role", "content", "User", "Bot")}, "chat"),
    "model": ({"messages": pair("role", "content", "user", "model")}, "chat"),
    "prompter": ({"messages": pair("role", "text", "prompter", "assistant")}, "chat"),
    "speaker": ({"dialogue": pair("speaker", "text", "human", "ai")}, "chat"),
    "Chinese roles": ({"messages": pair("role", "content", "客户", "律师")}, "chat"),
    "顾客": ({"对话": pair("角色", "内容", "顾客", "坐席")}, "chat"),
    "buyers": ({"turns": pair("speaker", "text", "买家", "卖家")}, "chat"),
    "callers": ({"conversations": pair("from", "value", "Caller", "Agent")}, "sharegpt"),
    "marked 顾客": ({"对话": "[顾客] Is it {}? [坐席] Yes, {}."}, "chat"),
    "pairs": ({"conversation": [{"human": "Is it {}?", "assistant": "Yes, {}."}]}, "chat"),
    "nested": ({"messages": [OPENAI]}, "chat"),
    "a line that is a list of turns": (OPENAI, "chat"),
    "a row in a list": ([{"instruction": "Is it {}?", "output": "Yes, {}."}], "instruction"),
    "JSON text": ({"messages": json.dumps(OPENAI).replace("{", "{{").replace("}", "}}")}, "chat"),
    "prompt, completion": ({"prompt": "Is it {}?", "completion": "Yes, {}."}, "prompt_completion"),
    "prompt, response": ({"prompt": "Is it {}?", "response": "Yes, {}."}, "prompt_completion"),
    "question, answer": ({"question": "Is it {}?", "answer": "Yes, {}."}, "prompt_completion"),
    "query, response": ({"query": "Is it {}?", "response": "Yes, {}."}, "prompt_completion"),
    "lists of prompt and completion": (
        {"prompt": OPENAI[:1], "completion": OPENAI[1:]},
        "prompt_completion",
    ),
    "Human:": ({"dialogue": "Human: Is it {}?\n\nAssistant: Yes, {}."}, "chat"),
    "User:": ({"log": "User: Is it {}?\nBot: Yes, {}."}, "chat"),
    "headings": ({"sample": "### Instruction:\nIs it {}?\n\n### Response:\nYes, {}."}, "chat"),
    "tags": ({"dialog": "<user>Is it {}? <bot>: Yes, {}."}, "chat"),
    "closed tags": ({"dialog": "<user>Is it {}?</user>\n<assistant>Yes, {}.</assistant>"}, "chat"),
    "brackets": ({"对话": "[客户] Is it {}? [律师] Yes, {}."}, "chat"),
    "Chinese marks": ({"对话": "问：Is it {}? 答：Yes, {}."}, "chat"),
    "marked turns": ({"history": ["[客户] Is it {}?", "[律师] Yes, {}."], "id": "1"}, "chat"),
}


def filled(value: Any, word: str) -> Any:
    if isinstance(value, str):
        return value.replace("{{", "{").replace("}}", "}").replace("{}", word)
    if isinstance(value, dict):
        return {key: filled(item, word) for key, item in value.items()}
    return [filled(item, word) for item in value]


@pytest.mark.parametrize("name", SHAPES)
def test_conversations_are_recognised(tmp_path: Path, name: str) -> None:
    """D18: by what is in a column, not by its name alone."""
    row, template = SHAPES[name]
    result = prepared(tmp_path, [filled(row, word) for word in TWO])
    assert texts(result) == [QA.replace("{}", word) for word in TWO]
    assert result.template == template


@pytest.mark.parametrize(
    "columns", [("query", "response"), ("prompt", "completion"), ("instruction", "output")]
)
def test_history_comes_before_the_prompt(tmp_path: Path, columns: tuple[str, str]) -> None:
    """D09: it was left out where the columns are not Alpaca's."""
    asked, answered = columns
    row = {asked: "And now?", answered: "No.", "history": [["Is it dry?", "Yes, dry."]]}
    result = prepared(tmp_path, [row, {**row, "history": []}])
    assert result.report["ignored_columns"] == []
    assert texts(result)[0].startswith(QA.replace("{}", "dry"))
    assert texts(result)[1] == texts(result)[0].removeprefix(QA.replace("{}", "dry"))


def test_marks_in_a_prompt_are_turns(tmp_path: Path) -> None:
    """Unless the template is named: then it is the text that it says it is."""
    rows = [
        {"instruction": "<user>: Is it dry? <bot>: Yes, dry. <user>: Sure?", "output": "Yes."},
        {"instruction": "<user>: Is it damp?", "input": "Look.", "output": "Yes."},
    ]
    both = texts(prepared(tmp_path, rows))
    assert both[0].startswith(QA.replace("{}", "dry") + "<|im_start|>user\nSure?<|im_end|>")
    assert both[1].startswith("<|im_start|>user\nIs it damp?\n\nLook.<|im_end|>")
    named = texts(prepared(tmp_path, rows, template="instruction"))
    assert all(text.startswith("<|im_start|>user\n<user>: Is it") for text in named)
    shots = [{"prompt": f"Q: a\nA: b\nQ: {word}", "completion": "c"} for word in TWO]
    assert texts(prepared(tmp_path, shots))[0].startswith("<|im_start|>user\nQ: a\nA: b\nQ: damp")
    mixed = texts(prepared(tmp_path, [*rows, {"instruction": "A tag: <user>", "output": "b"}]))
    assert mixed[:2] == named


def test_a_system_column_next_to_messages(tmp_path: Path) -> None:
    """D09: it was left out; one that repeats the conversation's own is the same."""
    turns = filled(OPENAI, "dry")
    own = {"role": "system", "content": "Be kind."}
    rows = [
        {"messages": turns, "system": "Be kind."},
        {"messages": [own, *turns], "system": "Be kind."},
        {"messages": [own, *turns], "system": ""},
    ]
    assert len(set(texts(prepared(tmp_path, rows)))) == 1
    other = {"messages": [own, *turns], "system": "Be brief."}
    with pytest.raises(DataError, match="more than one system turn"):
        prepared(tmp_path, [other])


def test_two_readings_are_an_error_whose_lines_work(tmp_path: Path) -> None:
    """Marked text in a column `text` is plain text as well."""
    rows = [{"text": f"Human: Is it {word}?\n\nAssistant: Yes, {word}."} for word in TWO]
    with pytest.raises(DataError, match="read in two ways") as caught:
        prepared(tmp_path, rows)
    assert "begin with human:" in caught.value.why.lower()
    lines = [line for line in caught.value.fix.splitlines() if line.startswith("  data:")]
    trees = [strict_yaml.parse(line)[0]["data"] for line in lines]
    results = [prepared(tmp_path, rows, **tree) for tree in trees]
    assert [result.template for result in results] == ["chat", "text"]
    assert texts(results[0]) == [QA.replace("{}", word) for word in TWO]
    assert texts(results[1])[0].startswith("Human: Is it damp?")
    once = [*rows, {"text": "No transcript."}]
    assert prepared(tmp_path, once).template == "text"


def test_turns_that_nothing_answers_are_counted(tmp_path: Path) -> None:
    rows = [{"dialog": f"User: a\nBot: b\nUser: c\nBot: d{end}"} for end in ("", "\nUser: Thanks.")]
    result = prepared(tmp_path, rows)
    assert len(set(texts(result))) == 1
    assert result.report["unanswered_rows"] == 1
    said = "1 row ending in turns that no answer follows: these turns are left out"
    assert said in result.report["warnings"]
    with pytest.raises(DataError, match="there is no assistant turn"):
        prepared(tmp_path, [*rows, {"dialog": "User: a"}])


def test_a_row_that_is_no_conversation_is_named(tmp_path: Path) -> None:
    rows = [{"log": filled(OPENAI, word)} for word in TWO]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [*rows, {"log": "nothing"}])
    hint = (
        "'log' holds conversations, except rows.jsonl:3: template: chat, columns: {messages: log}"
    )
    assert any(problem.startswith(hint) for problem in caught.value.problems)
    keys = {"template": "chat", "columns": {"messages": "log"}, "max_bad_rows": 1}
    assert len(prepared(tmp_path, [*rows, {"log": "nothing"}], **keys).train) == 2


def test_rows_of_two_formats_in_one_file_are_told_apart(tmp_path: Path) -> None:
    """D17: a row of one kind is never read as another."""
    rows = [{"messages": filled(OPENAI, "dry")}, {"instruction": "a", "output": "b"}]
    with pytest.raises(DataError, match="the rows of one file have different formats") as caught:
        prepared(tmp_path, rows)
    assert "rows.jsonl:2 and others have: instruction, output" in caught.value.problems


def test_prompts_for_a_policy_have_the_same_shapes(tmp_path: Path) -> None:
    rows = [{"dialog": f"User: Is it {word}?\nBot: Yes.\nUser: Sure?"} for word in TWO]
    questions = PromptData(inputs(tmp_path, rows), 8).prepare().train
    assert [len(each.messages) for each in questions] == [3, 3]
    assert [each.text for each in questions] == ["Sure?"] * 2
    rows = [{"prompt": filled(OPENAI[:1], word)} for word in TWO]
    questions = PromptData(inputs(tmp_path, rows), 8).prepare().train
    assert [each.text for each in questions] == ["Is it damp?", "Is it dry?"]


def test_calls_in_their_older_forms(tmp_path: Path) -> None:
    """OpenAI's single call, and calls as JSON text."""
    conversation = load_template("chat", tmp_path).conversation
    assert conversation is not None
    call = {"name": "f", "arguments": "{}"}
    turns = [
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([{"function": call}])},
    ]
    first, result, last = messages_of(turns, conversation, "messages")
    assert first["tool_calls"] == [{"type": "function", "function": call}]
    assert result["role"] == "tool"
    assert last["tool_calls"] == [{"function": call}]


@pytest.mark.parametrize(
    "text",
    [
        "The answer: none.\nUser: he is the user.",
        "Q: alone",
        "An [AI] model and its <user>.",
        "No marks at all",
        '[{"role": "user", "role": "user", "content": "a key twice"}]',
    ],
)
def test_text_is_no_transcript_by_chance(text: str) -> None:
    assert shape([text]) is None


def test_only_the_first_words_are_marks() -> None:
    """What looks like another mark is text; before headings there may be a preamble."""
    found = transcript(
        "Human: What does this mean?\nQuestion: who?\nAnswer: me\nAssistant: A form."
    )
    assert found is not None
    assert [turn["content"] for turn in found.turns] == [
        "What does this mean?\nQuestion: who?\nAnswer: me",
        "A form.",
    ]
    found = transcript("Do it.\n\n### Instruction:\nSort.\n\n### Input:\nb a\n\n### Response:\na b")
    assert found is not None
    assert [(turn["role"], turn["content"]) for turn in found.turns] == [
        ("system", "Do it."),
        ("user", "Sort.\n\nb a"),
        ("assistant", "a b"),
    ]
