"""Calls of turns as a chat template takes them: its own form where it has one, else text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.chat.template_probe import Abilities
from tuner.data.turns import tool_calls
from tuner.data.turns.reasoning import Message


class TurnCalls:
    """Puts the calls of turns into the form of a chat template.

    Args:
        abilities: what the template can do.
        literal: leave calls that are written in the text of an answer there.

    Attributes:
        read: rows with calls in a text that were read as calls.
        left: rows with calls in a text that stayed there.
    """

    def __init__(self, abilities: Abilities, literal: bool = False) -> None:
        self._able, self._literal = abilities, literal
        self.read: set[str] = set()
        self.left: set[str] = set()

    def require(self, messages: Sequence[Message], tools: list[Any] | None) -> None:
        """Refuse calls that the template would leave out, as there are no tools.

        Raises:
            BadRow: a turn has some.
        """
        alone = not tools and self._able.calls and not self._able.calls_alone
        if alone and any(each.get("tool_calls") or "call" in each for each in messages):
            raise BadRow("the model's chat template shows calls only next to tools; there are none")

    def native(self, message: Message) -> Message:
        """Return a turn with its calls in the template's own form where it has one, else as text.

        Raises:
            BadRow: the template cannot show them.
        """
        if message.get("tool_calls"):
            if not self._able.calls:
                raise BadRow(
                    "the model's chat template cannot render tool calls (set model.chat_template "
                    "to one that can, such as qwen3)"
                )
            if len(message["tool_calls"]) > 1 and not self._able.parallel:
                raise BadRow("the model's chat template shows one tool call per turn")
            return tool_calls.native(message, self._able.text_arguments)
        if "call" not in message:
            return message
        if not self._able.calls:
            return {key: value for key, value in message.items() if key != "call"}
        return self.native(tool_calls.parsed(message))

    def out_of_text(
        self, messages: Sequence[Message], tools: list[Any] | None, row: str = ""
    ) -> list[Message] | None:
        """Return turns with the calls that their texts end with as calls; None if there are none.

        They are read if the template writes calls in that form, or the chat has tools, and if the
        turn is the last one or its result follows: such calls can be sent in requests.

        Args:
            messages: the turns.
            tools: shown to the model.
            row: to count; empty: a prompt, which is not counted.
        """
        if self._literal or not (found := [*map(tool_calls.out_of_text, messages)]):
            return None
        able = self._able.calls if tools else self._able.tagged and self._able.calls_alone
        # Nothing follows the last one.
        following = [*(message["role"] for message in messages[1:]), "tool"]
        read = [
            called if called and able and role == "tool" and self._shows(called) else message
            for message, called, role in zip(messages, found, following, strict=True)
        ]
        some = any(one is not other for one, other in zip(read, messages, strict=True))
        if row and some:
            self.read.add(row)
        if row and any(map(tool_calls.out_of_text, read)):
            self.left.add(row)
        return read if some else None

    def _shows(self, called: Message) -> bool:
        single = len(called["tool_calls"]) == 1
        return (single or self._able.parallel) and (not called["content"] or self._able.with_text)

    def facts(self) -> dict[str, int]:
        """Return how many rows there were of each kind, for the report."""
        return {
            "rows_with_calls_in_text": len(self.read),
            "rows_with_unread_calls": len(self.left),
        }
