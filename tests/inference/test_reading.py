"""What an answer says: its reasoning, its content, its calls; whole and piece by piece."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import trl
from transformers.utils.chat_parsing.response_templates import load_response_template

from tests.chat_templates import FAMILIES
from tests.data.test_conversations import CALL, ROWS, TOOL, said, user
from tests.data.test_masks import learned, prepared
from tests.data.test_tool_calls import ONE_CALL
from tuner.data.chat.chat_template import ChatTemplate
from tuner.data.tokens.conversation import Prompts
from tuner.data.turns import reasoning
from tuner.inference import call_forms
from tuner.inference.reading import Reader, Said, whole

AT = [("tide", {"at": "Brest"})]
BOTH = [*AT, ("now", {})]
TAGGED = '<tool_call>\n{"name": "tide", "arguments": {"at": "Brest"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
XML = "<tool_call>\n<function=tide>\n<parameter=at>\nBrest\n</parameter>\n</function>\n</tool_call>"
GLM = "<tool_call>tide\n<arg_key>at</arg_key>\n<arg_value>Brest</arg_value>\n</tool_call>"
BARE = '{"name": "tide", "parameters": {"at": "Brest"}}'
OSS = '<|start|>assistant to=functions.tide<|channel|>commentary json<|message|>{"at": "Brest"}'
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|>"

# Form, answer without its stop token, reasoning, content, calls.
READ: dict[str, tuple[str, str, str, str, list[Any]]] = {
    "tags": ("JSON in tags", TAGGED, "", "", AT),
    "tags, parallel": ("JSON in tags", f"{TAGGED}\n{NOW}", "", "", BOTH),
    "tags and content": ("JSON in tags", f"I look.\n\n{TAGGED}", "", "I look.", AT),
    "tags between content": ("JSON in tags", f"I look.\n{TAGGED}\nSo.", "", "I look.\n\nSo.", AT),
    "tags and reasoning": ("JSON in tags", f"<think>\nHm.\n</think>\n\n{TAGGED}", "Hm.", "", AT),
    "tags not closed": ("JSON in tags", TAGGED.removesuffix("\n</tool_call>"), "", "", AT),
    "arguments as text": (
        "JSON in tags",
        '<tool_call>{"name": "tide", "arguments": "{\\"at\\": \\"Brest\\"}"}</tool_call>',
        "",
        "",
        AT,
    ),
    "no arguments": ("JSON in tags", '<tool_call>{"name": "now"}</tool_call>', "", "", [BOTH[1]]),
    "parameters": ("parameters in tags", f"I look.\n{XML}\n{XML}", "", "I look.", AT * 2),
    "no parameters": (
        "parameters in tags",
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "",
        "",
        [BOTH[1]],
    ),
    "keys": ("keys and values in tags", f"I look.\n{GLM}\n{GLM}", "", "I look.", AT * 2),
    "typed by the schema": (
        "keys and values in tags",
        "<tool_call>tide\n<arg_key>at</arg_key>\n<arg_value>12</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>12</arg_value>\n</tool_call>",
        "",
        "",
        [("tide", {"at": "12", "days": 12})],
    ),
    "a list": (
        "a list of JSON",
        'I look.[TOOL_CALLS] [{"name": "tide", "arguments": {"at": "Brest"}}, '
        '{"name": "now", "arguments": {}}]',
        "",
        "I look.",
        BOTH,
    ),
    "names": (
        "names and JSON",
        '[TOOL_CALLS]tide[ARGS]{"at": "Brest"}[TOOL_CALLS]now{}',
        "",
        "",
        BOTH,
    ),
    "bare": ("bare JSON", BARE, "", "", AT),
    "bare, parallel": ("bare JSON", f"<|python_tag|>{BARE}; {BARE}", "", "", AT * 2),
    "bare and content": ("bare JSON", f"I look.{BARE}", "", "I look.", AT),
    "bare, nested": (
        "bare JSON",
        '{"name": "tide", "parameters": {"at": {"port": {"name": "Brest; {"}}}}',
        "",
        "",
        [("tide", {"at": {"port": {"name": "Brest; {"}}})],
    ),
    "an answer": ("channels", f"{THOUGHT}<|channel|>final<|message|>Now.", "Hm.", "Now.", []),
    "channels": ("channels", f"{THOUGHT}{OSS}", "Hm.", "", AT),
    "the function behind the channel": (
        "channels",
        f"{THOUGHT}<|start|>assistant<|channel|>commentary to=functions.tide "
        '<|constrain|>json<|message|>{"at": "Brest"}',
        "Hm.",
        "",
        AT,
    ),
    "a preamble": (
        "channels",
        f"{THOUGHT}<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>{OSS}<|call|>",
        "Hm.",
        "I look.",
        AT,
    ),
}
# No calls: given back word for word.
KEPT: dict[str, tuple[str, str]] = {
    "no JSON": ("JSON in tags", "<tool_call>\n{name: tide}\n</tool_call>"),
    "cut off": ("JSON in tags", '<tool_call>\n{"name": "tide", "argu'),
    "no name": ("JSON in tags", '<tool_call>{"arguments": {}}</tool_call>'),
    "no object": ("JSON in tags", '<tool_call>{"name": "tide", "arguments": [1]}</tool_call>'),
    "no number": ("JSON in tags", '<tool_call>{"name": "t", "arguments": {"a": NaN}}</tool_call>'),
    "a list of lists": ("JSON in tags", "<tool_call>" + "[" * 5000 + "</tool_call>"),
    "a text": ("JSON in tags", '<tool_call>"tide"</tool_call>'),
    "an opening alone": ("JSON in tags", "<tool_call>"),
    "half an opening": ("JSON in tags", "So <tool_ca"),
    "more than parameters": (
        "parameters in tags",
        "<tool_call>\n<function=tide>\nBrest\n</function>\n</tool_call>",
    ),
    "more than keys": ("keys and values in tags", "<tool_call>tide\nBrest\n</tool_call>"),
    "no list": ("a list of JSON", "[TOOL_CALLS] tide"),
    "text behind it": ("bare JSON", f"{BARE} is a call."),
    "no channel": ("channels", "Now."),
    "a channel without JSON": ("channels", f"{OSS}}}"),
}
SCHEMA = copy.deepcopy(TOOL)
SCHEMA["function"]["parameters"]["properties"]["days"] = {"type": "integer"}


def read(form: str, answer: str, size: int, **options: Any) -> Said:
    reader = Reader(form=load_response_template(call_forms.FORMS[form]), **options)
    parts = []
    for place in range(0, len(answer), size):
        parts += reader.feed(answer[place : place + size])
    return whole([*parts, *reader.feed("", end=True)])


def calls(found: Said) -> list[tuple[str, Any]]:
    return [(call["name"], json.loads(call["arguments"])) for call in found.calls]


@pytest.mark.parametrize("case", READ)
def test_calls_are_read_whole_and_in_pieces(case: str) -> None:
    form, answer, thought, content, wanted = READ[case]
    for size in (len(answer), 1, 7):
        found = read(form, answer, size, tools=[SCHEMA])
        assert (found.reasoning, found.content, calls(found)) == (thought, content, wanted), size


@pytest.mark.parametrize("case", KEPT)
def test_what_is_no_call_is_content_word_for_word(case: str) -> None:
    form, answer = KEPT[case]
    for size in (len(answer), 1, 7):
        assert read(form, answer, size, tools=[SCHEMA]) == Said("", answer, [])


def test_a_sound_call_after_a_broken_one_is_read() -> None:
    broken = "<tool_call>\n{name: tide}\n</tool_call>"
    for size in (500, 1):
        found = read("JSON in tags", f"{broken}\n{TAGGED}", size, tools=[TOOL])
        assert (found.content, calls(found)) == (broken, AT)


def test_content_is_streamed_and_a_call_comes_when_it_is_whole() -> None:
    reader = Reader(form=load_response_template(call_forms.FORMS["JSON in tags"]), tools=[TOOL])
    seen = [[part.kind for part in reader.feed(letter)] for letter in f"I look.\n{TAGGED}"]
    assert seen[:6] == [["content"], [], ["content"], *[["content"]] * 3]
    assert seen[7:-1] == [[]] * len(seen[7:-1])
    assert seen[-1] == ["tool_calls"]


def test_without_tools_a_call_is_content() -> None:
    assert read("channels", f"{THOUGHT}{OSS}", 5) == Said("Hm.", OSS, [])


def test_one_call_only_where_one_is_asked_for() -> None:
    for form, answer in (("JSON in tags", f"{TAGGED}\n{NOW} So."), READ["a list"][:2]):
        found = read(form, answer, 3, tools=[TOOL], single=True)
        assert calls(found) == AT
        assert "So." not in found.content


PARALLEL = {
    "messages": [
        user("Due when?"),
        said("", tool_calls=[CALL, {**CALL, "function": {"name": "now", "arguments": {}}}]),
    ],
    "tools": [TOOL],
}
CALLERS = ("llama3", "qwen2.5", "qwen3", "qwen3-2507-thinking", "mistral", "glm-4.5", "gpt-oss")


@pytest.mark.parametrize("kind", ["tools", "tools and content", "tools and reasoning", "parallel"])
@pytest.mark.parametrize("name", CALLERS)
def test_what_is_learned_is_read_as_what_the_row_says(tmp_path: Path, name: str, kind: str) -> None:
    """From the tokens that are learned, without the stop token, back to the row's turn."""
    family, row = FAMILIES[name], ROWS.get(kind, PARALLEL)
    tokenizer = family.tokenizer()
    stops = family.stop_ids(tokenizer)
    if kind == "parallel" and name in ONE_CALL:
        return
    chat = ChatTemplate(tokenizer, stops)
    form = call_forms.find(tokenizer, chat)
    example = prepared(tmp_path, [row], tokenizer, stop_ids=stops).train[0]
    text = learned(example, tokenizer)[0]
    text = next(text.removesuffix(stop) for stop in chat.stops if text.endswith(stop))
    turn = row["messages"][1]
    arguments = chat.arguments(bool(turn.get("reasoning_content")))
    prompt = Prompts(tokenizer, stops).ids(row["messages"][:1], [TOOL], arguments)
    opened = reasoning.opens(tokenizer.decode(prompt))
    found = whole(Reader(opened, form, [TOOL]).feed(text.strip(), end=True))
    called = [each["function"] for each in turn["tool_calls"]]
    assert calls(found) == [(each["name"], each["arguments"]) for each in called]
    # gpt-oss has text next to a call as reasoning.
    said_to = found.reasoning if name == "gpt-oss" and turn["content"] else found.content
    assert said_to == turn["content"]
    assert turn.get("reasoning_content", "") in found.reasoning


REAL = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
STOPS = ("<|im_end|>", "<|eot_id|>", "</s>", "<|call|>", "<|return|>", "<|user|>", "<turn|>")
STOPS += ("<|observation|>", "<|tool_response>")
# Of one family each, whose form nobody describes.
UNKNOWN = {"diffusion_gemma", "lfm2_v2_training", "muse_glimmer"}


@pytest.mark.slow
def test_the_calls_of_real_templates_are_read() -> None:
    """The authors' own, as trl brings them: a form is found by what the template writes."""
    found = {}
    for file in REAL:
        tokenizer = FAMILIES["qwen3"].tokenizer()
        tokenizer.chat_template = file.read_text("utf-8")
        chat = ChatTemplate(tokenizer)
        chat.stops = STOPS
        if chat.abilities.tools and chat.abilities.calls:
            found[file.stem] = call_forms.find(tokenizer, chat)
    missing = {name.removesuffix("_training") for name, form in found.items() if form is None}
    assert missing <= {name.removesuffix("_training") for name in UNKNOWN}
    assert len(found) > 25
    assert not {"qwen3", "llama3_2", "glm4moe", "gptoss", "qwen3_6", "gemma4_v5"} - found.keys()


def test_a_form_that_the_tokenizer_brings_comes_first() -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    chat = ChatTemplate(tokenizer)
    own = copy.deepcopy(call_forms.FORMS["JSON in tags"])
    own["fields"]["mark"] = {"open": "<mark>", "close": "</mark>"}
    tokenizer.response_template = own
    form = call_forms.find(tokenizer, chat)
    assert form is not None
    assert "mark" in form.fields
    for useless in ({"fields": 3}, call_forms.FORMS["bare JSON"]):
        tokenizer.response_template = useless
        form = call_forms.find(tokenizer, chat)
        assert form is not None
        assert form.fields["tool_calls"].open_literals == ["<tool_call>"]
