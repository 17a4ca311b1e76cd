"""From the turns of a conversation to the prompt of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.chat import template_clock
from tuner.data.chat.chat_template import ChatTemplate
from tuner.data.chat.spans import SpanFinder
from tuner.data.rows.dialogue import Dialogue, Message
from tuner.data.rows.rendered import Rendered
from tuner.data.tokens.encode import Encoder, closing

# The same as in the data templates, between prompt and answer.
AFTER_TURN = "\n\n"


class Prompts:
    """Makes prompts from turns for one tokenizer.

    Args:
        tokenizer: a fast transformers tokenizer.
        stops: token ids that end an answer.
        plain: without a chat template, for a model that does not continue a chat.
        date: what the template writes for today's; None: the day on which it is asked.

    Attributes:
        template: the chat template; None if `plain`.

    Raises:
        ModelError: the chat template is broken.
        SafetyError: the chat template is not safe to run.
    """

    def __init__(
        self, tokenizer: Any, stops: list[int], *, plain: bool = False, date: str | None = None
    ) -> None:
        self.template = None if plain else ChatTemplate(tokenizer, stops, date)
        self._finder = SpanFinder(self.template) if self.template else None
        source = self.template.source if self.template else None
        self._encoder = Encoder(tokenizer, "literal", source)
        self._closing = closing(tokenizer) if plain else []

    def ids(
        self,
        messages: list[Message],
        tools: list[Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the token ids that the answer to the last turn continues.

        Args:
            messages: the turns.
            tools: shown to the model.
            arguments: for the chat template, in place of its defaults.

        Raises:
            BadRow: the chat template refuses the turns, or their text cannot be kept literal.
        """
        (encoded,) = self._encoder.encode([self.rendered(messages, tools, arguments)])
        if isinstance(encoded, BadRow):
            raise encoded
        return encoded.ids + self._closing

    def native(self, messages: list[Message]) -> list[Message]:
        """Return turns as the chat template itself takes them."""
        return self._finder.native(messages) if self._finder else messages

    def rendered(
        self,
        messages: list[Message],
        tools: list[Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """Return the same as text."""
        if self._finder is None:
            text = "".join(message["content"] + AFTER_TURN for message in messages)
            return Rendered(Dialogue("conversation", tuple(messages)), text, (), raw=True)
        return self._finder.prompt(messages, tools, arguments)


def by_transformers(
    tokenizer: Any,
    messages: list[Message],
    tools: list[Any] | None,
    arguments: Mapping[str, Any],
    date: str | None = None,
) -> list[int]:
    """Return the token ids of a prompt as programs without this one make it: those that load a
    tokenizer and apply its chat template.

    Args:
        tokenizer: with the chat template.
        messages: the turns, in its form (`Prompts.native`).
        tools: shown to the model.
        arguments: of the chat template.
        date: what the template writes for today's; None: today's.
    """
    with template_clock.on(date):
        text = tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=False, **arguments
        )
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
