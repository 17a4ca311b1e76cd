"""A prompt and an answer in the shapes that preference data has, as one dialogue.

Texts, messages with `role` and `content` or with `from` and `value`, lists of them, and transcripts
("Human: ... Assistant: ...", as in hh-rlhf) all become what the chat templates of sft read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.check_row import check
from tuner.data.dialogue import Dialogue, Message, RowRenderer
from tuner.data.read import Row
from tuner.data.template import load_template
from tuner.data.template_match import Fit
from tuner.data.turn_rules import TurnRules

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_TRANSCRIPT = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
_ANSWERING = ("assistant", "call", "tool")


class Sides:
    """Makes dialogues of prompts and answers.

    Args:
        system: the text of a system turn for those that have none.
        instruction: a text before the first turn of the user.
    """

    def __init__(self, system: str | None = None, instruction: str | None = None) -> None:
        template = load_template("chat", Path())
        assert template.conversation is not None
        self._roles = template.conversation.roles
        fit = Fit(template, {name: name for name in template.columns.names}, "tuner")
        self._renderer = RowRenderer(fit, rules=TurnRules(system=system, instruction=instruction))

    def dialogue(
        self, row: Row, prompt: Any, answer: Any, name: str, extras: dict[str, Any]
    ) -> Dialogue:
        """Return the prompt with its answer; the answer's side may hold the whole conversation.

        Args:
            row: the row of the values.
            prompt: text or turns; empty where the answer's side holds them.
            answer: text or turns.
            name: what the answer's column is called, for messages.
            extras: values of `system` and `tools`.

        Raises:
            BadRow: there is no prompt or no answer, or the turns are out of order.
        """
        turns = self._joined(self.prompt(prompt), answer, name)
        values = {"messages": turns, **extras}
        dialogue = self._renderer.render(replace(row, values=values))
        if self._role(turns[-1]) not in ("assistant", "call"):
            raise BadRow(f"{name} does not end with an answer")
        last = dialogue.messages[-1]
        if not last.get("tool_calls") and blank(last.get("content")):
            raise BadRow(f"{name} is empty")
        check(dialogue)
        _check_order(dialogue.messages)
        return dialogue

    def prompt(self, value: Any) -> list[Message]:
        """Return the turns of a prompt, without the header of an answer that is still to come.

        Raises:
            BadRow: it is neither text nor turns.
        """
        turns = turns_of(value, "user", "prompt")
        if turns and self._role(turns[-1]) == "assistant" and turns[-1]["content"] == "":
            return turns[:-1]
        return turns

    def ends_with_answer(self, turns: list[Message]) -> bool:
        """Return whether the last turn is the assistant's."""
        return bool(turns) and self._role(turns[-1]) in ("assistant", "call")

    def _joined(self, prompt: list[Message], answer: Any, name: str) -> list[Message]:
        side = turns_of(answer, "assistant", name)
        if not side:
            raise BadRow(f"{name} is empty")
        if self._role(side[0]) in _ANSWERING:
            if not prompt:
                raise BadRow("there is no prompt")
            return [*prompt, *side]
        if prompt and self._said(prompt) not in (self._said(side[:-1]), self._said(side[1:-1])):
            raise BadRow(f"{name} does not begin with the prompt")
        return side

    def _role(self, turn: Message) -> str:
        role = turn["role"]
        return self._roles.get(role, "") if isinstance(role, str) else ""

    def _said(self, turns: list[Message]) -> list[tuple[str, str]]:
        return [(self._role(turn), str(turn["content"]).strip()) for turn in turns]


def turns_of(value: Any, speaker: str, column: str) -> list[Message]:
    """Return the turns in a value, with the keys `role` and `content`; none if it is empty.

    Args:
        value: a text, a transcript, a turn or a list of turns.
        speaker: the role of a plain text.
        column: the column of the value, for messages.

    Raises:
        BadRow: the value is none of these.
    """
    if isinstance(value, str) and _TRANSCRIPT.match(value):
        return _transcript(value)
    if isinstance(value, str):
        return [] if blank(value) else [{"role": speaker, "content": value}]
    turns = [value] if isinstance(value, dict) else value or []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow(f"{column} is neither text nor turns")
    return [_turn(turn) for turn in turns]


def transcript(text: str) -> bool:
    """Return whether a text is a conversation with `Human:` and `Assistant:`."""
    return _TRANSCRIPT.match(text) is not None


def blank(value: Any) -> bool:
    """Return whether a value is missing or a text of white space only."""
    return value is None or (isinstance(value, str) and not value.strip())


def _transcript(text: str) -> list[Message]:
    parts = _SPEAKER.split("\n\n" + text.lstrip())
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": said.strip()}
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _turn(turn: Message) -> Message:
    own = ("role", "from", "content", "value")
    rest = {key: value for key, value in turn.items() if key not in own}
    role = turn["role"] if "role" in turn else turn.get("from")
    content = turn["content"] if "content" in turn else turn.get("value")
    return {"role": role, "content": content, **rest}


def _check_order(messages: tuple[Message, ...]) -> None:
    for before, after in pairwise(messages):
        called = "call" in before or before.get("tool_calls")
        if before["role"] == after["role"] and before["role"] != "tool" and not called:
            who = before["role"]
            raise BadRow(f"the turns are out of order: two {who} turns follow each other")
