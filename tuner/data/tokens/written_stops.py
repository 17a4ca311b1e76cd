"""Stop tokens that rows spell out: at the end of an answer one is its end, and not part of it.

Rows made for other programs have the text of the end token behind every answer. Every answer is
learned with its stop token, so the text would be a second one, or a word that the model learns to
say before it stops.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from tuner.data.rows.dialogue import Dialogue, Message


class WrittenStops:
    """Takes such texts off.

    Args:
        tokenizer: its end-of-sequence token is one.
        stop_ids: further tokens that end an answer.
        policy: `data.special_tokens_in_text`; literal and error leave rows as they are.

    Attributes:
        rows: in which there was one.
    """

    def __init__(self, tokenizer: Any, stop_ids: Collection[int], policy: str) -> None:
        words = tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, *stop_ids])
        self._words = tuple(filter(None, words)) if policy in ("auto", "allow") else ()
        self.rows: set[str] = set()

    def taken_off(self, dialogue: Dialogue) -> Dialogue:
        """Return a row without the stop tokens that its answers end with, one each."""
        messages = tuple(self._turn(each) for each in dialogue.messages)
        segments, answer = dialogue.segments, self.bare(dialogue.answer)
        if dialogue.plain:
            segments = (*segments[:-1], replace(segments[-1], text=self.bare(segments[-1].text)))
        if (messages, segments) == (dialogue.messages, dialogue.segments):
            return dialogue
        self.rows.add(dialogue.row)
        return replace(dialogue, messages=messages, segments=segments, answer=answer)

    def _turn(self, message: Message) -> Message:
        text = message.get("content")
        if message["role"] != "assistant" or not isinstance(text, str):
            return message
        return {**message, "content": self.bare(text)}

    def bare(self, text: str) -> str:
        """Return a text without one stop token at its end; one that is all of it stays."""
        bare = text.rstrip()
        for word in self._words:
            if bare.endswith(word) and (rest := bare.removesuffix(word)).strip():
                return rest
        return text
