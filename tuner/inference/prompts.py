"""From the turns of a conversation to the prompt of a model."""

from __future__ import annotations

from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.chat_template import ChatTemplate
from tuner.data.dialogue import Dialogue, Message
from tuner.data.encode import Encoder, closing
from tuner.data.rendered import Rendered, Span

# The same as in the data templates, between prompt and answer.
AFTER_TURN = "\n\n"


class Prompts:
    """Makes prompts from turns for one tokenizer.

    Args:
        tokenizer: a fast transformers tokenizer.
        stops: token ids that end an answer.
        plain: without a chat template, for a model that does not continue a chat.

    Raises:
        ModelError: the chat template is broken.
        SafetyError: the chat template is not safe to run.
    """

    def __init__(self, tokenizer: Any, stops: list[int], *, plain: bool = False) -> None:
        self._template = None if plain else ChatTemplate(tokenizer, stops)
        source = self._template.source if self._template else None
        self._encoder = Encoder(tokenizer, "literal", source)
        self._closing = closing(tokenizer) if plain else []

    def ids(self, messages: list[Message]) -> list[int]:
        """Return the token ids that the answer to the last turn continues.

        Raises:
            BadRow: the chat template refuses the turns, or their text cannot be kept literal.
        """
        (encoded,) = self._encoder.encode([self._render(messages)])
        if isinstance(encoded, BadRow):
            raise encoded
        return encoded.ids + self._closing

    def _render(self, messages: list[Message]) -> Rendered:
        dialogue = Dialogue("conversation", tuple(messages))
        if self._template is None:
            text = "".join(message["content"] + AFTER_TURN for message in messages)
            return Rendered(dialogue, text, (), raw=True)
        text = self._template.render(messages, generate=True)
        given = [message["content"] for message in messages]
        # The same chat with contents that occur nowhere else shows what the template itself writes.
        neutral = [f"Xq{number}neutral{number}qX" for number in range(len(messages))]
        turns = [
            {**message, "content": content}
            for message, content in zip(messages, neutral, strict=True)
        ]
        pattern = self._template.render(turns, generate=True)
        for contents in (given, [content.strip() for content in given]):
            structure = _filled(pattern, neutral, contents, text)
            if structure is not None:
                return Rendered(dialogue, text, (), structure=structure)
        # The template rewrites a turn: where its text is cannot be known.
        whole = ((0, len(text)),)
        return Rendered(
            dialogue, text, (), structure=whole, unlocated=tuple(given), pattern=pattern
        )


def _filled(
    pattern: str, neutral: list[str], contents: list[str], text: str
) -> tuple[Span, ...] | None:
    """Return what the template wrote in `text`, if that is `pattern` with these contents."""
    parts, structure, position = [], [], 0
    for name, content in zip(neutral, contents, strict=True):
        own, found, rest = pattern.partition(name)
        if not found or name in rest:
            return None
        structure.append((position, position + len(own)))
        position += len(own) + len(content)
        parts += [own, content]
        pattern = rest
    structure.append((position, position + len(pattern)))
    return tuple(structure) if "".join([*parts, pattern]) == text else None
