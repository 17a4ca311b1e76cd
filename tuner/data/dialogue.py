"""A row rendered by its data template: the turns of a chat, or raw segments."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from tuner.data import reasoning, turn_keys
from tuner.data.bad_rows import BadRow
from tuner.data.label_names import LabelNames
from tuner.data.read import Row
from tuner.data.reasoning import Message as Message
from tuner.data.template import (
    SLOT_LABEL,
    SLOT_TEXT,
    Cloze,
    Conversation,
    Template,
    Turn,
    environment,
    load_template,
    variables,
)
from tuner.data.template_match import Fit
from tuner.data.turn_lists import messages_of
from tuner.data.turn_rules import TurnRules

_ONE_COLUMN = re.compile(r"\{\{\s*(\w+)\s*\}\}\Z")


@dataclass(frozen=True)
class Segment:
    """A part of a raw text."""

    text: str
    supervised: bool


@dataclass(frozen=True)
class Dialogue:
    """What a row says, before any chat template. Has messages or segments, never both.

    Reasoning is under a key of its own in a message; see `reasoning.separated`. So is what a turn
    weighs in the loss; see `turn_keys.weight`. The last turn is one that is learned.

    `answer` is the last turn's text; for a cloze it is the label, whose word is in the segments.
    `source` is the number of the file that the row comes from. `unanswered` says that the row has
    further turns, which no answer follows.
    """

    row: str
    messages: tuple[Message, ...] = ()
    segments: tuple[Segment, ...] = ()
    tools: list[Any] | None = None
    answer: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    cut_characters: int = 0
    source: int = 0
    unanswered: bool = False

    def with_answer(self, answer: str) -> Dialogue:
        """Return the same row with a different last answer, without reasoning before it."""
        if self.segments:
            word = self.words.get(answer, answer)
            segments = tuple(
                replace(each, text=word) if each.supervised else each for each in self.segments
            )
            return replace(self, segments=segments, answer=answer)
        last = reasoning.without(self.messages[-1])
        messages = (*self.messages[:-1], {**last, "content": answer})
        return replace(self, messages=messages, answer=answer)

    @property
    def last_answer(self) -> Message:
        """The last turn of the assistant; empty if there is none."""
        turns = (each for each in reversed(self.messages) if each["role"] == "assistant")
        return next(turns, {})

    @property
    def plain(self) -> bool:
        """Whether it is plain text, all of which is learned."""
        return bool(self.segments) and all(segment.supervised for segment in self.segments)

    @property
    def mark(self) -> str:
        """The sha256 of the row's text, ignoring case and white space."""
        text = "\n".join(" ".join(part.casefold().split()) for part in self._parts())
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _parts(self) -> list[str]:
        if self.segments:
            return ["".join(segment.text for segment in self.segments)]
        parts: list[str] = []
        for message in self.messages:
            content = message.get("content") or ""
            rest = {k: v for k, v in turn_keys.shown(message).items() if k != "content"}
            parts += [json.dumps(rest, ensure_ascii=False), content]
        return parts


class RowRenderer:
    """Renders rows with one template; compile once, use for every row.

    Args:
        fit: the template and its columns.
        labels: how the value of a label's column is written.
        rules: what the recipe says about turns.
    """

    def __init__(
        self,
        fit: Fit[Template],
        labels: LabelNames | None = None,
        rules: TurnRules | None = None,
    ) -> None:
        self.rules = rules or TurnRules()
        self.template = fit.template
        self._labels = labels or LabelNames()
        self._fit = fit
        self._lists = {turn.column for turn in fit.template.turns if turn.column}
        if conversation := fit.template.conversation:
            self._lists |= {conversation.column, conversation.tools or conversation.column}
        sources = [fit.template.text, *(turn.content for turn in fit.template.turns)]
        self._compiled = {source: _compile(source) for source in sources if source}

    def render(self, row: Row) -> Dialogue:
        """Render one row.

        Raises:
            BadRow: a column is missing or is not text, or the turns are malformed.
        """
        dialogue = self._render(row, self._values(row))
        return replace(dialogue, cut_characters=row.cut_characters, source=row.source)

    def _render(self, row: Row, values: dict[str, Any]) -> Dialogue:
        template = self.template
        if template.text is not None:
            text = self._compiled[template.text](values)
            return Dialogue(row.id, segments=(Segment(text, True),), answer=text)
        if template.cloze:
            return _cloze(row.id, template.cloze, values)
        if template.conversation:
            messages = tuple(_conversation(template.conversation, values))
            tools = _tools(values.get(template.conversation.tools or ""))
        else:
            messages = tuple(
                message for turn in template.turns for message in self._turn(turn, values)
            )
            tools = None
        given = messages
        messages = self.rules.applied(messages, row.values)
        answer = messages[-1].get("content") or "" if messages else ""
        unanswered = bool(messages) and given[-1]["role"] in ("user", "tool")
        unanswered = unanswered and _spoken(messages) < _spoken(given)
        return Dialogue(row.id, messages, tools=tools, answer=answer, unanswered=unanswered)

    def _values(self, row: Row) -> dict[str, Any]:
        values: dict[str, Any] = {}
        required = set(self.template.columns.required)
        for name in self.template.columns.names:
            fit, file_name = self._fit, self._fit.columns.get(name, name)
            value = fit.required(row, name) if name in required else fit.value(row, name)
            if name in fit.spoken and value is not None:
                value = messages_of(value, _any_turns(), file_name)
            elif name not in self._lists:
                value = self._labels.answer(self.template, name, value)
            if value is None:
                value = ""
            elif name not in self._lists | fit.spoken and not isinstance(value, str):
                raise BadRow(f"the column '{file_name}' is not text")
            elif name in required and not _filled(value) and self.template.text is None:
                raise BadRow(f"the column '{file_name}' is empty")
            values[name] = value
        return values

    def _turn(self, turn: Turn, values: dict[str, Any]) -> list[Message]:
        if turn.role == "history":
            return _history(values[turn.column or ""])
        source = turn.content or ""
        for name in self._fit.spoken.intersection(variables(source)):
            return self._continued(turn, name, values)
        content = self._compiled[source](values)
        if not content.strip() and turn.role != "assistant":
            return []
        return [{"role": turn.role, "content": content}]

    def _continued(self, turn: Turn, name: str, values: dict[str, Any]) -> list[Message]:
        """The turns in a column, the last of them as the template writes it."""
        *before, last = values[name]
        if last["role"] != turn.role:
            raise BadRow(
                f"the turns in '{self._fit.columns[name]}' do not end with the {turn.role}"
            )
        if not isinstance(last.get("content"), str):
            return [*before, last]
        given = {**values, name: last["content"]}
        content = self._compiled[turn.content or ""](given)
        return [*before, {**last, "content": content}]


@cache
def _any_turns() -> Conversation:
    """How turns are read whose template names no keys and roles."""
    conversation = load_template("chat", Path()).conversation
    assert conversation is not None
    return conversation


def _spoken(messages: Collection[Message]) -> int:
    """The number of turns, without those of the system."""
    return sum(message["role"] != "system" for message in messages)


def _filled(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def _compile(source: str) -> Callable[[dict[str, Any]], str]:
    column = _ONE_COLUMN.match(source)
    if column:
        name = column.group(1)
        return lambda values: str(values[name])
    template = environment().from_string(source)

    def render(values: dict[str, Any]) -> str:
        try:
            return template.render(values)
        except jinja2.TemplateError as error:
            raise BadRow(f"the data template cannot render the row: {error}") from None

    return render


def _history(pairs: Any) -> list[Message]:
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


def _cloze(row: str, cloze: Cloze, values: dict[str, Any]) -> Dialogue:
    text, label = values[cloze.text], values[cloze.label]
    word = cloze.verbalizer.get(label)
    if word is None:
        raise BadRow(f"the data template's verbalizer has no word for the label '{label}'")
    parts = re.split(f"({re.escape(SLOT_TEXT)}|{re.escape(SLOT_LABEL)})", cloze.pattern)
    slots = {SLOT_TEXT: Segment(text, False), SLOT_LABEL: Segment(word, True)}
    segments = tuple(slots.get(part, Segment(part, False)) for part in parts if part)
    return Dialogue(row, segments=segments, answer=label, words=cloze.verbalizer)


def _conversation(conversation: Conversation, values: dict[str, Any]) -> list[Message]:
    messages = messages_of(values[conversation.column], conversation, conversation.column)
    system = values.get(conversation.system or "")
    if system and isinstance(system, str):
        same = {"role": "system", "content": system}
        messages = [same, *(messages[1:] if messages[:1] == [same] else messages)]
    return messages


def _tools(tools: Any) -> list[Any] | None:
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError:
            raise BadRow("tools is not JSON") from None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("tools is not a list of objects")
    return tools
