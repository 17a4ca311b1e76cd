"""The system turn of rows that have none: whether a template shows it, and sent by default."""

from __future__ import annotations

import json

from tuner.data.bad_rows import BadRow
from tuner.data.chat.chat_template import ChatTemplate
from tuner.errors import RecipeError

_SYSTEM, _USER = "Xqsystem0qX", "Xquser0qX"


def refuse_system(chat: ChatTemplate | None, text: str, words: list[str]) -> None:
    """Refuse a system turn that the chat template would leave out, or not show as it is.

    Args:
        chat: the template; None for plain text.
        text: of the turn.
        words: the tokenizer's control tokens.

    Raises:
        RecipeError: the template has no system turn, or the text has control tokens.
    """
    if found := next((word for word in words if word in text), None):
        raise RecipeError(
            f"data.system has the special token {found}",
            "as part of the chat template it would no longer be plain text",
            "leave it out of the text",
        )
    if chat is None:
        return
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    try:
        shown, why = chat.render(turns), "it leaves the system turn out"
    except BadRow as problem:
        shown, why = "", str(problem).removeprefix("the model's chat template has no system turn: ")
    if _SYSTEM not in shown:
        raise RecipeError(
            "data.system: the model's chat template has no system turn",
            why,
            "leave out data.system and put its text into the users' turns, or set "
            "model.chat_template to one that has a system turn",
        )


def with_system(source: str, text: str | None) -> str:
    """Return a chat template that begins a chat without a system turn with this one.

    Whoever renders it, another program too, sends the same prompt.
    """
    if text is None:
        return source
    # Two underscores in a row would look like an attack on the sandbox.
    said = json.dumps(text, ensure_ascii=False).replace("__", '_" ~ "_')
    return (
        "{%- if not messages or messages[0]['role'] not in ['system', 'developer'] %}"
        "{%- set messages = [{'role': 'system', 'content': " + said + "}] + messages %}"
        "{%- endif %}{{- '' }}" + source
    )
