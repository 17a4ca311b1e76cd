"""The beginning of a call that a model is made to write, as its chat template writes calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.chat.chat_template import ChatTemplate

_USER = {"role": "user", "content": "question"}
# Calls with such arguments differ from where their arguments begin.
_ARGUMENTS: tuple[dict[str, Any], ...] = ({}, {"a": 1}, {"b": ["x"]})


@dataclass(frozen=True)
class Begun:
    """The beginning of an answer: token ids, and their text."""

    ids: tuple[int, ...] = ()
    text: str = ""


def begin(
    tokenizer: Any,
    chat: ChatTemplate,
    tools: Sequence[Any],
    names: Sequence[str],
    arguments: Mapping[str, Any],
) -> Begun | None:
    """Return what all calls of some functions begin with; None if the template does not show it.

    Args:
        tokenizer: a fast one.
        chat: its chat template, which writes calls.
        tools: shown to the model.
        names: of the functions, one of which is to be called.
        arguments: of the chat template.
    """
    try:
        answers = [
            _answer(chat, tools, name, given, arguments) for name in names for given in _ARGUMENTS
        ]
    except BadRow:
        return None
    found = [
        tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
        for answer in answers
    ]
    columns = zip(*(each["input_ids"] for each in found), strict=False)
    ids = tuple(column[0] for column in takewhile(lambda column: len({*column}) == 1, columns))
    if not ids or not all(answers):
        return None
    return Begun(ids, answers[0][: found[0]["offset_mapping"][len(ids) - 1][1]])


def _answer(
    chat: ChatTemplate,
    tools: Sequence[Any],
    name: str,
    given: dict[str, Any],
    arguments: Mapping[str, Any],
) -> str:
    """What the model would write to call a function; empty if its prompt does not show where."""
    shown: Any = json.dumps(given) if chat.abilities.text_arguments else given
    function = {"name": name, "arguments": shown}
    call = {"type": "function", "id": "call00000", "function": function}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    options: dict[str, Any] = {"tools": list(tools), "arguments": dict(arguments)}
    prompt = chat.render([_USER], generate=True, **options)
    whole = chat.render([_USER, turn], **options)
    return whole[len(prompt) :] if whole.startswith(prompt) else ""
