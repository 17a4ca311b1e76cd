"""How models write tool calls, in the declarative form of transformers' parser of responses.

Which of these forms is a model's is found out, not looked up by its name: a call is rendered with
the model's chat template, which is what the model was trained to write, and a form that reads the
same call back is its form.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from transformers.utils.chat_parsing.response_templates import (
    ResponseTemplate,
    load_response_template,
)

from tuner.data.bad_rows import BadRow
from tuner.data.chat.chat_template import ChatTemplate
from tuner.data.turns import reasoning
from tuner.inference.reading import Reader

# How Llama 3 begins an object; its body is what the arguments' key holds.
_LLAMA = (
    r'(?:<\|python_tag\|>)?\s*\{\s*(?:"type":\s*"function",\s*)?"name":\s*"(?P<name>[^"]+)",\s*'
    r'"(?:parameters|arguments)":\s*'
)
# In gpt-oss, the function is named before the channel or after it.
_OSS_CALL = (
    r"(?:<\|start\|>assistant)?\s*(?:<\|channel\|>(?:commentary|analysis)\s+)?"
    r"to=functions\.(?P<name>[^\s<]+)\s*(?:<\|channel\|>(?:commentary|analysis))?"
    r"\s*(?:<\|constrain\|>)?(?:json)?\s*<\|message\|>"
)
_OSS_TEXT = r"(?:<\|start\|>assistant)?<\|channel\|>{}\s*(?:<\|constrain\|>\w+)?<\|message\|>"
_NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
_WHOLE = {"type": "function", "function": "{content}"}
_RAW = {"name": "text", "args": {"strip": False}}


def _form(_others: dict[str, Any] | None = None, **calls: Any) -> dict[str, Any]:
    """Return a form by the field of its calls; text outside of all fields is content."""
    fields = {**(_others or {}), "tool_calls": {"repeats": True, **calls}, "content": {}}
    # Only answers are read, never what comes before them.
    return {"start_anchor": "\x00", "fields": fields}


FORMS: dict[str, dict[str, Any]] = {
    # Hermes, Qwen2.5, Qwen3, SmolLM3 and many others.
    "JSON in tags": _form(
        open="<tool_call>", close="</tool_call>", content="json", transform=_WHOLE
    ),
    # Qwen3-Coder, Qwen3.5, Nemotron 3.
    "parameters in tags": _form(
        open_pattern=r"<tool_call>\s*<function=(?P<name>[^\n>]+)>",
        close="</tool_call>",
        content="xml-inline",
        content_args={
            "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>",
            "value_parser": _RAW,
        },
        transform=_NAMED,
    ),
    # GLM-4.5 and later.
    "keys and values in tags": _form(
        open_pattern=r"<tool_call>\s*(?P<name>[^\s<{]+)",
        close="</tool_call>",
        content="xml-inline",
        content_args={
            "tag_pattern": (
                r"<arg_key>(?P<key>[^<]+)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>"
            ),
            "value_parser": _RAW,
        },
        transform=_NAMED,
    ),
    # Mistral up to v7, and from v11 on.
    "a list of JSON": _form(
        open="[TOOL_CALLS]",
        content="json",
        transform={"function": {"name": "{name}", "arguments": "{arguments}"}},
        transform_each=True,
    ),
    "names and JSON": _form(
        open_pattern=r"\[TOOL_CALLS\](?P<name>[^\s\[{]+)(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?",
        close_pattern=r"(?=\[TOOL_CALLS\])",
        content="json",
        transform=_NAMED,
    ),
    "channels": _form(
        {
            "thinking": {
                "open_pattern": _OSS_TEXT.format("analysis"),
                "close_pattern": r"<\|end\|>",
            },
            "final": {
                "open_pattern": _OSS_TEXT.format("(?:final|commentary)"),
                "close_pattern": r"<\|(?:return|end)\|>",
            },
        },
        open_pattern=_OSS_CALL,
        close_pattern=r"<\|(?:call|end)\|>",
        content="json",
        transform=_NAMED,
    ),
    # Llama 3.1 and later: without an end of its own, so the last one that is tried.
    "bare JSON": _form(
        open_pattern=_LLAMA,
        close_pattern=r"\}\s*(?:;\s*|<\|eo[tm]_id\|>|\Z)",
        content="json",
        transform=_NAMED,
    ),
}

_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_of_tool",
        "description": "probe",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "number": {"type": "integer"}},
        },
    },
}
_ARGUMENTS = {"text": "12", "number": 12}
_USER = {"role": "user", "content": "question"}


def find(tokenizer: Any, chat: ChatTemplate, trl: bool = True) -> ResponseTemplate | None:
    """Return the form that reads the calls that a chat template writes; None if none does.

    A form that the tokenizer brings comes first, then those above, then those that trl knows by the
    text of a chat template.

    Args:
        tokenizer: the model's.
        chat: its chat template.
        trl: whether to ask trl as well, which takes seconds to import.
    """
    answer = _written(chat) if chat.abilities.calls else None
    if answer is None:
        return None
    for form in _candidates(tokenizer, trl):
        try:
            loaded = load_response_template(form)
        except (ValueError, TypeError):
            continue
        if _reads(loaded, *answer):
            return loaded
    return None


def has_channels(form: ResponseTemplate | None) -> bool:
    """Return whether a form also says where reasoning and content are."""
    return form is not None and not form.fields.keys() <= {"tool_calls", "content"}


def _candidates(tokenizer: Any, trl: bool) -> Iterator[dict[str, Any]]:
    own = getattr(tokenizer, "response_template", None)
    if own is not None:
        yield own
    yield from FORMS.values()
    if not trl:
        return
    from trl.chat_template_utils import add_response_schema

    try:
        yield add_response_schema(copy.copy(tokenizer)).response_template
    except ValueError:
        return


def _written(chat: ChatTemplate) -> tuple[str, bool] | None:
    """Return how the template writes an answer with a call, and whether its prompt has opened a
    block of reasoning."""
    given: Any = json.dumps(_ARGUMENTS) if chat.abilities.text_arguments else _ARGUMENTS
    function = {"name": "probe_of_tool", "arguments": given}
    call = {"type": "function", "id": "call00000", "function": function}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    options: dict[str, Any] = {"tools": [_TOOL], "arguments": chat.arguments(False)}
    try:
        prompt = chat.render([_USER], generate=True, **options)
        text = chat.render([_USER, turn], **options)
    except BadRow:
        return None
    if not text.startswith(prompt):
        return None
    answer = text[len(prompt) :]
    ends = [place for stop in chat.stops if (place := answer.find(stop)) >= 0]
    return answer[: min(ends, default=len(answer))].strip(), reasoning.opens(prompt)


def _reads(form: ResponseTemplate, answer: str, opened: bool) -> bool:
    parts = Reader(opened, form, [_TOOL]).feed(answer, end=True)
    wanted = {"name": "probe_of_tool", "arguments": _ARGUMENTS}
    found = [
        {**part.call, "arguments": json.loads(part.call["arguments"])}
        for part in parts
        if part.call
    ]
    return found == [wanted] and not any(part.text.strip() for part in parts)
