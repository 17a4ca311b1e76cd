"""Fingerprints of rows and prompts: by them rows are found again, and held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from tuner.data.turns import turn_keys
from tuner.data.turns.reasoning import Message


def said(message: Message) -> tuple[str, str]:
    """Return what a turn says besides its text, as JSON, and its text."""
    rest = {key: value for key, value in turn_keys.shown(message).items() if key != "content"}
    return json.dumps(rest, ensure_ascii=False), message.get("content") or ""


def of_row(parts: Iterable[str]) -> str:
    """Return the sha256 of a row's texts, ignoring case and the kind of white space."""
    text = "\n".join(" ".join(part.casefold().split()) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def of_prompts(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return the sha256 of the prompt of each answer that is learned, that of the last turn first,
    ignoring case and all white space."""
    digest = hashlib.sha256()
    found = []
    for number, message in enumerate(messages, 1):
        learned = message["role"] == "assistant" and turn_keys.weight(message)
        if learned or number == len(messages):
            found.append(digest.hexdigest())
        for part in said(message):
            digest.update(_bare(part))
    return tuple(reversed(found))


def of_text(text: str) -> str:
    """Return the sha256 of a text, ignoring case and all white space."""
    return hashlib.sha256(_bare(text)).hexdigest()


def _bare(text: str) -> bytes:
    return "".join(text.casefold().split()).encode("utf-8", "surrogatepass") + b"\n"
