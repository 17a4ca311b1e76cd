"""Reasoning before an answer: found in a turn however it is written, and put the way a template
takes it.

A turn may carry its reasoning in a field of its own (`reasoning_content` of Qwen and GLM,
`reasoning`, `thinking` of gpt-oss) or inside its content, between `<think>` and `</think>`. Both
become one form: the content without it, and a key of ours.
"""

from __future__ import annotations

from typing import Any, Literal

from tuner.data.bad_rows import BadRow

Message = dict[str, Any]
Mode = Literal["learn", "context", "drop"]

# Ours: no row has a key of this name.
KEY = "_reasoning"
FIELDS = ("reasoning_content", "thinking", "reasoning")
OPEN, CLOSE = "<think>", "</think>"


def separated(message: Message) -> Message:
    """Return an assistant's turn with its reasoning, if it has any, under `KEY` only.

    A turn of another role is returned as it is. Text that ends a block without beginning one is
    reasoning whose prompt began it.

    Raises:
        BadRow: reasoning is not text, not closed, or there twice with different words.
    """
    if message.get("role") != "assistant":
        return message
    rest = {key: value for key, value in message.items() if key not in FIELDS}
    fields = {name: message[name] for name in FIELDS if message.get(name) is not None}
    for name, text in fields.items():
        if not isinstance(text, str):
            raise BadRow(f"'{name}' of a turn is not text but {type(text).__name__}")
    content = message.get("content")
    inside = ""
    if isinstance(content, str):
        inside, rest["content"] = cut(content, opened=OPEN not in content)
        if rest["content"].lstrip().startswith(OPEN):
            raise BadRow(f"the reasoning of a turn begins with {OPEN} and does not end")
    said = list(dict.fromkeys(text.strip() for text in (*fields.values(), inside) if text.strip()))
    if len(said) > 1:
        raise BadRow("a turn has two different texts of reasoning")
    return {**rest, KEY: said[0]} if said else rest


def cut(text: str, opened: bool = False) -> tuple[str, str]:
    """Return the reasoning that a text begins with, and the rest; empty if it has none.

    Args:
        text: of an answer.
        opened: whether its prompt has already opened the block.
    """
    before, found, after = text.partition(CLOSE)
    begun = before.lstrip()
    if not found or not (opened or begun.startswith(OPEN)):
        return "", text
    return begun.removeprefix(OPEN).strip(), after.lstrip("\n")


def opens(prompt: str) -> bool:
    """Return whether a prompt ends inside an open block of reasoning."""
    return prompt.rstrip().endswith(OPEN)


def without(message: Message) -> Message:
    """Return a separated turn without its reasoning."""
    return {key: value for key, value in message.items() if key != KEY}


def block(said: str) -> str:
    """Return a block of reasoning, up to where the answer begins."""
    return f"{OPEN}\n{said}\n{CLOSE}\n\n"


def inline(message: Message) -> str:
    """Return a separated turn as one text, its reasoning in a block before its content."""
    said, content = message.get(KEY), str(message.get("content") or "")
    return block(said) + content if said else content


class Splitter:
    """Splits an answer into reasoning and content while it is written.

    Args:
        opened: whether the prompt has already opened a block of reasoning.
    """

    def __init__(self, opened: bool = False) -> None:
        self._opened = opened
        self._text = ""
        self._said = [0, 0]

    def feed(self, piece: str, end: bool = False) -> tuple[str, str]:
        """Return what is new in reasoning and content after a piece of the answer.

        Args:
            piece: the next part.
            end: whether it is the last one; nothing is held back then.
        """
        self._text += piece
        both = self._parts(end)
        new = tuple(text[said:] for text, said in zip(both, self._said, strict=True))
        self._said = [len(text) for text in both]
        return new[0], new[1]

    def _parts(self, end: bool) -> tuple[str, str]:
        """Return reasoning and content as far as they can no longer change."""
        begun = self._text.lstrip()
        if not self._opened and not begun.startswith(OPEN):
            waits = not end and OPEN.startswith(begun)
            return "", "" if waits else self._text
        inside, found, after = begun.removeprefix(OPEN).partition(CLOSE)
        if found:
            return inside.strip(), after.lstrip("\n")
        held = 0 if end else _begun(inside, CLOSE)
        return inside[: len(inside) - held].strip(), ""


def _begun(text: str, word: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a word."""
    return next((n for n in range(len(word) - 1, 0, -1) if text.endswith(word[:n])), 0)
