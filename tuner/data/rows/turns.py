"""A prompt and an answer in the shapes that preference data has, as one dialogue.

Texts, turns, lists of them, and texts with marks ("Human: ... Assistant: ...", as in hh-rlhf) all
become what the chat templates of sft read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.columns.template_match import Fit
from tuner.data.reading.read import Row
from tuner.data.reading.transcripts import apart
from tuner.data.rows.check_row import check
from tuner.data.rows.dialogue import Dialogue, Message, RowRenderer
from tuner.data.templates.template import load_template
from tuner.data.turns.turn_lists import earlier, messages_of, shape
from tuner.data.turns.turn_rules import TurnRules

_ANSWERING = ("assistant", "tool")


class Sides:
    """Makes dialogues of prompts and answers.

    Args:
        rules: the system turn of those that have none, the text before the first turn of the user,
            and whether turns are read as an earlier version read them.
        spoken: the columns whose texts hold turns.
    """

    def __init__(self, rules: TurnRules | None = None, spoken: Collection[str] = ()) -> None:
        template = load_template("chat", Path())
        assert template.conversation is not None
        self._conversation, self._spoken = template.conversation, spoken
        fit = Fit(template, {name: name for name in template.columns.names}, "tuner")
        self._renderer = RowRenderer(fit, rules=rules)

    def dialogue(
        self, row: Row, prompt: list[Message], answer: Any, name: str, extras: dict[str, Any]
    ) -> Dialogue:
        """Return the prompt with its answer; the answer's side may hold the whole conversation.

        Args:
            row: the row of the values.
            prompt: its turns; none where the answer's side holds them.
            answer: text or turns.
            name: what the answer's column is called, for messages.
            extras: values of `system` and `tools`.

        Raises:
            BadRow: there is no prompt or no answer, or the turns are out of order.
        """
        turns = self._joined(prompt, answer, name)
        values = {"messages": turns, **extras}
        dialogue = self._renderer.render(replace(row, values=values))
        if not self.ends_with_answer(turns):
            raise BadRow(f"{name} does not end with an answer")
        last = dialogue.messages[-1]
        if not last.get("tool_calls") and blank(last.get("content")):
            raise BadRow(f"{name} is empty")
        check(dialogue, results=not self._renderer.rules.earlier)
        _check_order(dialogue.messages)
        return dialogue

    def prompt(self, value: Any, more: Any = None, history: Any = None) -> list[Message]:
        """Return the turns of a prompt, without the header of an answer that is still to come.

        Args:
            value: text or turns.
            more: text that the prompt is about.
            history: the turns before it, or pairs of what was asked and answered.

        Raises:
            BadRow: it is neither text nor turns.
        """
        turns = self.turns(value, "user", "prompt")
        last = turns[-1] if turns else {"role": "", "content": None}
        if last["role"] == "assistant" and last.get("content") == "" and len(last) == 2:
            turns = turns[:-1]
        if not blank(more):
            turns = self._about(turns, more)
        return [*earlier(None if blank(history) else history, self._conversation), *turns]

    def has_turns(self, value: Any, name: str) -> bool:
        """Return whether a value holds turns, and is no plain text."""
        return not isinstance(value, str) or name in self._spoken or apart(value) is not None

    @staticmethod
    def ends_with_answer(turns: list[Message]) -> bool:
        """Return whether the last turn is the assistant's."""
        return bool(turns) and turns[-1]["role"] == "assistant"

    def turns(self, value: Any, speaker: str, name: str) -> list[Message]:
        """Return the turns in a value; none if it is empty.

        Args:
            value: a text, a turn or a list of turns.
            speaker: the role of a plain text.
            name: the format's column of the value.

        Raises:
            BadRow: the value is none of these, or a turn is malformed.
        """
        if isinstance(value, str):
            if blank(value):
                return []
            if found := apart(value):
                return found.turns
            if name not in self._spoken:
                return [{"role": speaker, "content": value}]
            if not shape([value]):
                raise BadRow(f"{name} has no marks of speakers, which other rows have")
            return messages_of(value, self._conversation, name)
        turns = [value] if isinstance(value, dict) else value or []
        if not isinstance(turns, list) or not all(isinstance(turn, dict | list) for turn in turns):
            raise BadRow(f"{name} is neither text nor turns")
        return messages_of(turns, self._conversation, name)

    def _about(self, turns: list[Message], more: Any) -> list[Message]:
        if not isinstance(more, str):
            raise BadRow("input is not text")
        if not turns:
            return [{"role": "user", "content": more}]
        *before, last = turns
        if last["role"] != "user" or not isinstance(last.get("content"), str):
            raise BadRow("the prompt does not end with the user, so that input has no place")
        return [*before, {**last, "content": f"{last['content']}\n\n{more}"}]

    def _joined(self, prompt: list[Message], answer: Any, name: str) -> list[Message]:
        side = self.turns(answer, "assistant", name)
        if not side:
            raise BadRow(f"{name} is empty")
        if side[0]["role"] in _ANSWERING:
            if not prompt:
                raise BadRow("there is no prompt")
            return [*prompt, *side]
        if prompt and _said(prompt) not in (_said(side[:-1]), _said(side[1:-1])):
            raise BadRow(f"{name} does not begin with the prompt")
        return side


def blank(value: Any) -> bool:
    """Return whether a value is missing or a text of white space only."""
    return value is None or (isinstance(value, str) and not value.strip())


def _said(turns: list[Message]) -> list[tuple[str, str]]:
    return [(turn["role"], str(turn.get("content")).strip()) for turn in turns]


def _check_order(messages: tuple[Message, ...]) -> None:
    for before, after in pairwise(messages):
        called = "call" in before or before.get("tool_calls")
        if before["role"] == after["role"] and before["role"] != "tool" and not called:
            who = before["role"]
            raise BadRow(f"the turns are out of order: two {who} turns follow each other")
