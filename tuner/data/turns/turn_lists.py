"""Conversations as files have them, in any of their shapes, as one list of turns.

A list of turns with role and content, whatever these keys are called; a list of pairs such as
`{"human": ..., "assistant": ...}`; texts with marks; such a list as the only item of another, or
as JSON text; a single text with marks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from tuner.data.bad_rows import BadRow, UnknownRole
from tuner.data.reading import json_rows
from tuner.data.reading.transcripts import Transcript, transcript, transcript_of
from tuner.data.templates.template import Conversation
from tuner.data.turns.reasoning import Message
from tuner.schema.suggest import listed

# Shapes that are lists of turns; any other is a mark.
LISTS = ("role", "from")
_SPEAKER = ("role", "from", "speaker", "sender", "角色", "说话人", "发言人", "身份")
_SAID = ("content", "value", "text", "message", "utterance", "内容", "文本", "发言", "话语")
_ASKED = ("human", "user", "prompt", "question")
_ANSWERED = ("assistant", "gpt", "bot", "response", "answer")


def messages_of(value: Any, conversation: Conversation, column: str) -> list[Message]:
    """Return the turns in a value of a conversation's column.

    Args:
        value: a list of turns, or another shape of it.
        conversation: keys and roles of the turns.
        column: the column, for messages.

    Raises:
        BadRow: it is no list of turns, or a turn has an unknown role or parts that are not text.
    """
    turns = _turns(value)
    if turns is None:
        raise BadRow(f"the column '{column}' is not a list of turns")
    return [_message(conversation, turn) for turn in turns]


def earlier(history: Any, conversation: Conversation) -> list[Message]:
    """Return the turns before a prompt, from pairs of what was asked and answered or from turns.

    Raises:
        BadRow: they are neither.
    """
    pairs = history
    if isinstance(history, str) and history.strip():
        try:
            pairs = json_rows.decode(history)
        except ValueError:
            raise BadRow("history is neither a list nor JSON") from None
    if isinstance(pairs, list) and pairs and all(isinstance(item, dict) for item in pairs):
        return messages_of(pairs, conversation, "history")
    messages: list[Message] = []
    for pair in pairs or []:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(text, str) for text in pair)
        ):
            raise BadRow("history is not a list of pairs of texts")
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    return messages


def shape(values: Iterable[Any]) -> str | None:
    """Return what all of these values are: `from` for turns with from and value, `role` for other
    turns, or the user's mark of marked texts; None if they are not all conversations of one kind.
    Empty values count for nothing.
    """
    kinds: set[str] = set()
    answered = False
    for value in values:
        if value in (None, "", []):
            continue
        kind = _kind(value)
        if kind is None:
            return None
        kinds.add(kind if isinstance(kind, str) else kind.mark)
        answered |= isinstance(kind, str) or "assistant" in kind.words
    if kinds == {"from", "role"}:
        return "role"
    return kinds.pop() if len(kinds) == 1 and answered else None


def unmarked(texts: Mapping[str, Any]) -> list[str]:
    """Return the names of texts that are no conversations, if most of the others are."""
    odd = [name for name, text in texts.items() if not shape([text])]
    return odd if 0 < len(odd) * 2 < len(texts) else []


def ends_with_user(values: Iterable[Any]) -> bool:
    """Return whether the last turn of every conversation is the user's."""
    found = [_turns(value) for value in values if value]
    return all(turns and turns[-1].get("role") == "user" for turns in found)


def _kind(value: Any) -> str | Transcript | None:
    """The kind of one value."""
    value = _unwrapped(value)
    if isinstance(value, str):
        return transcript(value)
    if _texts(value):
        return transcript_of(value)
    turns = _turns(value)
    if not turns:
        return None
    if not all(_key(turn, _SPEAKER) and (_key(turn, _SAID) or len(turn) > 1) for turn in turns):
        return None
    return "from" if all("from" in turn and "value" in turn for turn in turns) else "role"


def _turns(value: Any) -> list[dict[str, Any]] | None:
    """The turns in a value, as they are written; None if there is none."""
    value = _unwrapped(value)
    if isinstance(value, str) or _texts(value):
        found = transcript(value) if isinstance(value, str) else transcript_of(value)
        return found.turns if found else None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    return [turn for item in value for turn in _pair(item) or [item]]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _unwrapped(value: Any) -> Any:
    """A value without JSON around it, and without a list of which it is the only item."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json_rows.decode(value)
        except ValueError:
            return value
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        return lists[0] if len(value) == len(lists) == 1 else value
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    return value


def _pair(item: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The two turns of a question with its answer."""
    asked, answered = (_key(item, keys) for keys in (_ASKED, _ANSWERED))
    if not asked or not answered or len(item) != 2:
        return None
    return [
        {"role": "user", "content": item[asked]},
        {"role": "assistant", "content": item[answered]},
    ]


def _key(turn: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((name for name in names if name in turn), "")


def _message(conversation: Conversation, turn: dict[str, Any]) -> Message:
    own = [
        _key(turn, (conversation.role, *_SPEAKER)),
        _key(turn, (conversation.content, *_SAID)),
    ]
    role = turn.get(own[0])
    mapped = conversation.roles.get(role) if isinstance(role, str) else None
    if mapped is None and isinstance(role, str):
        mapped = conversation.roles.get(role.lower())
    if mapped is None:
        raise UnknownRole(json.dumps(role, ensure_ascii=False), conversation.roles)
    message = {key: value for key, value in turn.items() if key not in own and value is not None}
    content = joined(turn.get(own[1]))
    if mapped == "call":
        return {"role": "assistant", **message, "content": content, "call": True}
    message = {"role": mapped, **_with_calls(message)}
    if content is not None:
        message["content"] = content
    return message


def _with_calls(message: Message) -> Message:
    """OpenAI's former single call, and calls as JSON text, as the list of calls that they are."""
    if isinstance(call := message.get("function_call"), dict):
        if "tool_calls" in message:
            raise BadRow("a turn has both function_call and tool_calls: leave out function_call")
        rest = {key: value for key, value in message.items() if key != "function_call"}
        return {**rest, "tool_calls": [{"type": "function", "function": call}]}
    if isinstance(calls := message.get("tool_calls"), str):
        with suppress(ValueError):
            return {**message, "tool_calls": json_rows.decode(calls)}
    return message


def joined(content: Any) -> Any:
    """Return OpenAI's list of parts as one text, with nothing between them; other content as it is.

    Raises:
        BadRow: a part is no text. What it points to is never opened.
    """
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {} for part in content]
    other = [
        part
        for part in parts
        if part.get("type") != "text" or not isinstance(part.get("text"), str)
    ]
    if other:
        kinds = listed([*dict.fromkeys(f"'{part.get('type')}'" for part in other)])
        raise BadRow(f"a turn has parts that are not text ({kinds}), and only text is learned")
    return "".join(part["text"] for part in parts)
