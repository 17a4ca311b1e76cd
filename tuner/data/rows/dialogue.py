"""A row rendered by its data template: the turns of a chat, or raw segments."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.data.bad_rows import BadRow, EmptyPrompt
from tuner.data.columns.template_match import Fit
from tuner.data.fields.values import written
from tuner.data.reading import json_rows
from tuner.data.reading.read import Row
from tuner.data.rows import marks
from tuner.data.rows.row_values import RowValues, ValueReader, any_turns, unprompted
from tuner.data.sources.label_names import LabelNames
from tuner.data.templates.jinja import compiled, variables
from tuner.data.templates.template import SLOT_LABEL, SLOT_TEXT, Cloze, Conversation, Template, Turn
from tuner.data.turns import reasoning
from tuner.data.turns.reasoning import Message as Message
from tuner.data.turns.tool_calls import called, whole_tools
from tuner.data.turns.turn_lists import earlier, messages_of
from tuner.data.turns.turn_rules import TurnRules, instructed
from tuner.schema.suggest import listed


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
    further turns, which no answer follows. `documents` are the texts that may lose their end;
    `cut_texts` says that one did. `choices` are the answers that the row itself offers.
    `bare_tools` says that the row has tools without the mapping around them.
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
    documents: tuple[str, ...] = ()
    cut_texts: bool = False
    choices: tuple[str, ...] = ()
    bare_tools: bool = False

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
        """Fingerprint of the row."""
        if self.segments:
            return marks.of_row(["".join(segment.text for segment in self.segments)])
        return marks.of_row([part for message in self.messages for part in marks.said(message)])

    @property
    def prompts(self) -> tuple[str, ...]:
        """Fingerprints of the prompts of its answers, that of the last one first; plain text is its
        own prompt."""
        if self.segments:
            parts = [each.text for each in self.segments if self.plain or not each.supervised]
            return (marks.of_text("".join(parts)),)
        return marks.of_prompts(self.messages)


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
        self._fit = fit
        self._reader = ValueReader(fit, labels)

    def render(self, row: Row) -> Dialogue:
        """Render one row.

        Raises:
            BadRow: a column is missing or is not text, or the turns are malformed.
        """
        values = self._reader.of(row)
        dialogue = self._render(row, values)
        return replace(
            dialogue,
            cut_characters=row.cut_characters,
            source=row.source,
            choices=values.letters,
        )

    def supervised(self, row: Row) -> Dialogue:
        """Render one row to learn from; of one without a prompt, the error says what would do."""
        try:
            return self.render(row)
        except EmptyPrompt as problem:
            raise BadRow(f"{problem}{unprompted(self._fit)}") from None

    def _render(self, row: Row, found: RowValues) -> Dialogue:
        template, values = self.template, found.named
        if template.text is not None:
            text = compiled(template.text, found.words)(values)
            return Dialogue(row.id, segments=(Segment(text, True),), answer=text)
        if template.cloze:
            return _cloze(row.id, template.cloze, values, self.rules.instruction)
        if template.conversation:
            messages = tuple(_conversation(template.conversation, values))
            tools = _tools(values.get(template.conversation.tools or ""))
        else:
            messages = tuple(
                message for turn in template.turns for message in self._turn(turn, found)
            )
            self._refuse_empty(messages)
            tools = _tools(values.get(template.tools or ""))
        given, schemas = messages, tools
        if tools and not self.rules.earlier:
            tools = whole_tools(tools)
        messages = self.rules.applied(messages, row.values)
        answer = messages[-1].get("content") or "" if messages else ""
        unanswered = bool(messages) and given[-1]["role"] in ("user", "tool")
        unanswered = unanswered and _spoken(messages) < _spoken(given)
        return Dialogue(
            row.id,
            messages,
            tools=tools,
            answer=answer,
            unanswered=unanswered,
            bare_tools=tools != schemas,
        )

    def _refuse_empty(self, messages: Sequence[Message]) -> None:
        """Refuse a row of which no turn is left to answer."""
        asking = [turn for turn in self.template.turns if turn.role == "user"]
        if asking and all(message["role"] in ("system", "assistant") for message in messages):
            columns = self._fit.columns
            read = {name: None for turn in asking for name in sorted(turn.columns() & {*columns})}
            raise EmptyPrompt(f"the prompt is empty ({listed([columns[name] for name in read])})")

    def _turn(self, turn: Turn, found: RowValues) -> list[Message]:
        values = found.named
        if turn.role == "history":
            return earlier(values[turn.column or ""], any_turns())
        if turn.calls:
            return [_calling(values[turn.calls], self._fit.columns[turn.calls])]
        source = turn.content or ""
        for name in self._fit.spoken.intersection(variables(source)):
            return self._continued(turn, name, found)
        content = compiled(source, found.words)(values)
        if not content.strip() and turn.role != "assistant":
            return []
        return [{"role": turn.role, "content": content}]

    def _continued(self, turn: Turn, name: str, found: RowValues) -> list[Message]:
        """The turns in a column, the last of them as the template writes it."""
        *before, last = found.named[name]
        if last["role"] != turn.role:
            raise BadRow(
                f"the turns in '{self._fit.columns[name]}' do not end with the {turn.role}"
            )
        if not isinstance(last.get("content"), str):
            return [*before, last]
        given = {**found.named, name: last["content"]}
        content = compiled(turn.content or "", found.words)(given)
        return [*before, {**last, "content": content}]


def _spoken(messages: Collection[Message]) -> int:
    """The number of turns, without those of the system."""
    return sum(message["role"] != "system" for message in messages)


def _cloze(row: str, cloze: Cloze, values: Mapping[str, Any], instruction: str | None) -> Dialogue:
    text, label = written(values[cloze.text]), values[cloze.label]
    word = cloze.verbalizer.get(label)
    if word is None:
        raise BadRow(
            f"the data template has no word for the label '{label}' (set data.template: "
            "classification, which learns the labels themselves; or add it to the verbalizer)"
        )
    parts = re.split(f"({re.escape(SLOT_TEXT)}|{re.escape(SLOT_LABEL)})", cloze.pattern)
    slots = {SLOT_TEXT: Segment(text, False), SLOT_LABEL: Segment(word, True)}
    segments = tuple(slots.get(part, Segment(part, False)) for part in parts if part)
    if instruction:
        segments = (Segment(instructed(instruction, ""), False), *segments)
    return Dialogue(row, segments=segments, answer=label, words=cloze.verbalizer)


def _conversation(conversation: Conversation, values: dict[str, Any]) -> list[Message]:
    messages = messages_of(values[conversation.column], conversation, conversation.column)
    system = values.get(conversation.system or "")
    if system and isinstance(system, str):
        same = {"role": "system", "content": system}
        messages = [same, *(messages[1:] if messages[:1] == [same] else messages)]
    return messages


def _calling(value: Any, column: str) -> Message:
    """The turn that makes the calls in a value: a list of them, or JSON text."""
    calls = value
    if isinstance(value, str):
        try:
            calls = json_rows.decode(value)
        except ValueError:
            raise BadRow(f"the calls in '{column}' are not JSON") from None
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRow(f"the calls in '{column}' are not a list of objects")
    made = [dict(zip(("name", "arguments"), called(call), strict=True)) for call in calls]
    functions = [{"type": "function", "function": function} for function in made]
    return {"role": "assistant", "content": "", "tool_calls": functions}


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
