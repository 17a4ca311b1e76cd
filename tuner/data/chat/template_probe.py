"""What a chat template can do, learned by rendering small chats with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuner.data.bad_rows import BadRow
from tuner.data.turns import reasoning
from tuner.data.turns.reasoning import Message

INLINE = "inline"

_NAME, _OTHER = "probe_of_tool", "probe_of_another"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_that_is_shown",
        "description": "probe",
        "parameters": {"type": "object", "properties": {}},
    },
}
_ARGUMENTS = {"probe_of_argument": "x"}
# How Python writes an object that a template puts into its text without `tojson`, and JSON.
_PYTHONS, _JSON = str(_ARGUMENTS), json.dumps(_ARGUMENTS)
_USER = {"role": "user", "content": "question"}
_THOUGHT, _SAID = "Xqthought0qX", "Xqsaid0qX"

# Arguments by which templates are asked to answer without reasoning: Qwen3, GLM and SmolLM3;
# DeepSeek-V3.1 and Granite; Command A.
_SWITCHES = ("enable_thinking", "thinking", "reasoning")
# What every template is given, and the functions that it may call.
_GIVEN = frozenset(
    [
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token"),
        *("mask_token", "additional_special_tokens", "raise_exception", "strftime_now"),
        *("range", "namespace", "dict", "lipsum", "cycler", "joiner"),
    ]
)
# In a call that a template wrote.
_TAGGED = re.compile(r"<tool_call>\s*\{\s*\"name\"")
# Marks for the assistant's tokens, a tag that Jinja itself does not know.
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")

Render = Callable[..., str]


@dataclass(frozen=True)
class Abilities:
    """What a template can do.

    Attributes:
        tools: it shows the tools of a chat.
        calls: it shows the calls of a turn.
        calls_alone: it does so in a chat without tools, too.
        parallel: it shows several calls of one turn.
        tagged: it writes calls in Hermes's form: JSON between <tool_call> and </tool_call>.
        with_text: it shows the text next to a call.
        text_arguments: it takes the arguments of a call as JSON text, not as an object.
        reasoning: the field in which it takes the reasoning of a turn; `inline`: it keeps a block
            inside the content; empty: it leaves the reasoning of answers out.
        composed: the prompt opens a block of reasoning that an answered chat leaves out; an answer
            is put behind its prompt then.
        switch: the argument that turns reasoning off when false; empty if there is none.
        arguments: names that it reads and that not every template is given.
        header: what it writes before an answer, where it writes the same prompt with and without
            `add_generation_prompt`; empty if that is white space or a block without reasoning.
    """

    tools: bool
    calls: bool
    calls_alone: bool
    parallel: bool
    tagged: bool
    with_text: bool
    text_arguments: bool
    reasoning: str
    composed: bool
    switch: str
    arguments: tuple[str, ...]
    header: str


def learn(source: str, render: Render) -> Abilities:
    """Learn what a template can do.

    Args:
        source: its text.
        render: renders messages, tools and `generate` with keyword `arguments`; raises `BadRow`.
    """

    def attempt(*messages: Message, **options: Any) -> str | None:
        try:
            return render(list(messages), **options)
        except BadRow:
            return None

    plain = attempt(_USER)
    alone = any(_NAME in (attempt(_USER, _calling(each)) or "") for each in (_ARGUMENTS, _JSON))
    # Templates of several parts have one for chats with tools.
    with_tools: dict[str, Any] = {} if alone else {"tools": [_PROBE_TOOL]}
    called, written = (
        attempt(_USER, _calling(each), **with_tools) or "" for each in (_ARGUMENTS, _JSON)
    )
    as_text = (_NAME not in called or _PYTHONS in called) and _NAME in written
    given = _JSON if as_text else _ARGUMENTS
    both = attempt(_USER, {**_calling(given), "content": _SAID}, **with_tools) or ""
    two = attempt(_USER, _calling(given, _NAME, _OTHER), **with_tools) or ""
    arguments = _arguments(source)
    switch = next((name for name in _SWITCHES if name in arguments and _turns(attempt, name)), "")
    thinking = {switch: True} if switch else {}
    field = _field(attempt, thinking)
    prompt = attempt(_USER, generate=True, arguments=thinking) or ""
    answered = attempt(_USER, _answer(field), arguments=thinking) or ""
    off = {switch: False} if switch else {}
    quiet = attempt(_USER, generate=True, arguments=off) or ""
    plainly = attempt(_USER, {"role": "assistant", "content": _SAID}, arguments=off) or ""
    return Abilities(
        tools=attempt(_USER, tools=[_PROBE_TOOL]) not in (None, plain),
        calls=_NAME in called or as_text,
        calls_alone=alone,
        parallel=_NAME in two and _OTHER in two,
        tagged=bool(_TAGGED.search(written if as_text else called)),
        with_text=_SAID in both and _NAME in both,
        text_arguments=as_text,
        reasoning=field,
        composed=any(
            reasoning.opens(asked) and not answer.startswith(asked)
            for asked, answer in ((prompt, answered), (quiet, plainly))
        ),
        switch=switch,
        arguments=arguments,
        header=_header(attempt(_USER, arguments=off) or "", quiet, plainly),
    )


def _header(unasked: str, asked: str, answered: str) -> str:
    if unasked != asked or not answered.startswith(asked):
        return ""
    header, said, _ = answered[len(asked) :].partition(_SAID)
    words = header.replace(reasoning.OPEN, "").replace(reasoning.CLOSE, "")
    return header if said and words.strip() else ""


def _turns(attempt: Callable[..., str | None], name: str) -> bool:
    """Whether an argument changes the prompt, and an answer without reasoning fits the one."""
    on, off = (
        attempt(_USER, generate=True, arguments={name: value}) or "" for value in (True, False)
    )
    said = {"role": "assistant", "content": _SAID}
    answered = attempt(_USER, said, arguments={name: False}) or ""
    return on != off and answered.startswith(off)


def _field(attempt: Callable[..., str | None], arguments: Mapping[str, Any]) -> str:
    for field in (*reasoning.FIELDS, INLINE):
        text = attempt(_USER, _answer(field), arguments=arguments) or ""
        if _THOUGHT in text and _SAID in text:
            return field
    return ""


def _calling(arguments: Any, *names: str) -> Message:
    functions = [{"name": name, "arguments": arguments} for name in names or (_NAME,)]
    calls = [
        {"type": "function", "id": f"call0000{number}", "function": function}
        for number, function in enumerate(functions)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _answer(field: str) -> Message:
    turn = {"role": "assistant", "content": _SAID, reasoning.KEY: _THOUGHT}
    if field == INLINE:
        return {"role": "assistant", "content": reasoning.inline(turn)}
    said = reasoning.without(turn)
    return {**said, field: _THOUGHT} if field else said


def _arguments(source: str) -> tuple[str, ...]:
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_GENERATION.sub("", source))
    except jinja2.TemplateSyntaxError:
        return ()
    names = jinja2.meta.find_undeclared_variables(tree) - _GIVEN
    # What is set in one branch only counts as undeclared in the others.
    written = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
    tests = tree.find_all(nodes.Test)
    asked = {
        test.node.name
        for test in tests
        if test.name == "defined" and isinstance(test.node, nodes.Name)
    }
    return tuple(sorted(name for name in names if name in asked or name not in written))
