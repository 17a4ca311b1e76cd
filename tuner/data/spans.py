"""Where the answers are in a rendered chat, found by rendering prefixes.

An answer reaches from the end of the generation prompt (the chat before it, rendered with
`add_generation_prompt`) to its stop token. Chats of the same shape (roles, tools, tool calls) are
rendered once with neutral contents, which shows what the template writes itself; a row then needs
one rendering, which must equal the shape filled with its contents. A row for which it does not is
measured with its own prefixes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.chat_template import ChatTemplate
from tuner.data.dialogue import Dialogue, Message
from tuner.data.rendered import Rendered, Span
from tuner.errors import ModelError

MAX_SHAPES = 4096


@dataclass(frozen=True)
class Answer:
    """Span of one answer with its stop token, if the template wrote one."""

    start: int
    end: int
    stopped: bool


@dataclass(frozen=True)
class Shape:
    """A chat with neutral contents. `contents`: span and message; None if not locatable."""

    text: str
    contents: tuple[tuple[int, int, int], ...] | None
    answers: tuple[Answer, ...] | None

    def fill(self, texts: Sequence[str]) -> str:
        """Return the chat with these contents, one for each of `contents`."""
        parts, position = [], 0
        for (start, end, _), text in zip(self.contents or (), texts, strict=True):
            parts += [self.text[position:start], text]
            position = end
        return "".join([*parts, self.text[position:]])


class SpanFinder:
    """Renders dialogues with one chat template."""

    def __init__(self, chat: ChatTemplate) -> None:
        self.chat = chat
        self._shapes: dict[str, Shape] = {}

    def render(self, dialogue: Dialogue, only_last: bool = False) -> list[Rendered]:
        """Render a dialogue: one example, or one for each answer.

        Templates that rewrite earlier turns (dropping their reasoning, say) cannot show all
        answers in one text as inference would; then each answer is a separate example.

        Raises:
            BadRow: the template refuses the row.
            ModelError: the generation prompt is not a prefix of the answered chat.
        """
        if dialogue.tools:
            self.chat.require_tools(dialogue.row)
        messages = [self._native(message) for message in dialogue.messages]
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        whole = self._one(dialogue, messages, answers[-1:] if only_last else answers)
        if whole:
            return [whole]
        examples = []
        for i in answers:
            answer = messages[i].get("content") or ""
            part = replace(dialogue, messages=dialogue.messages[: i + 1], answer=answer)
            example = self._one(part, messages[: i + 1], [i])
            examples += [example] if example else []
        return examples

    def _native(self, message: Message) -> Message:
        """A tool call as the template's own form where it has one, else as plain text."""
        if message.get("tool_calls") and not self.chat.renders_calls:
            raise BadRow("the model's chat template cannot render tool calls")
        if "call" not in message:
            return message
        plain = {key: value for key, value in message.items() if key != "call"}
        if not self.chat.renders_calls:
            return plain
        try:
            call = json.loads(message["content"])
            function = {"name": call["name"], "arguments": call.get("arguments", {})}
        except (ValueError, TypeError, KeyError, AttributeError):
            return plain
        return {**plain, "content": "", "tool_calls": [{"type": "function", "function": function}]}

    def _one(
        self, dialogue: Dialogue, messages: list[Message], answers: list[int]
    ) -> Rendered | None:
        shape = self._shape(messages, dialogue.tools, answers)
        text = self.chat.render(messages, dialogue.tools)
        if shape.contents is not None:
            given = [str(messages[i]["content"]) for _, _, i in shape.contents]
            for contents in (given, [each.strip() for each in given]):
                if shape.fill(contents) == text:
                    extras = [{**message, "content": None} for message in messages]
                    strings = tuple(_strings([*extras, dialogue.tools]))
                    filled = _filled(shape, contents, dialogue, text)
                    return filled and replace(filled, unlocated=strings)
        found = self._answers(messages, dialogue.tools, answers, text)
        if found is None:
            return None
        strings = tuple(_strings([*messages, dialogue.tools]))
        example = _rendered(dialogue, text, found)
        return replace(example, structure=((0, len(text)),), unlocated=strings, pattern=shape.text)

    def _shape(self, messages: list[Message], tools: list[Any] | None, answers: list[int]) -> Shape:
        neutral = [
            {**message, "content": f"Xq{i}neutral{i}qX"} if message.get("content") else message
            for i, message in enumerate(messages)
        ]
        key = json.dumps([neutral, tools, answers], sort_keys=True)
        if key not in self._shapes:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            text = self.chat.render(neutral, tools)
            found = self._answers(neutral, tools, answers, text)
            self._shapes[key] = Shape(text, _locate(text, neutral), tuple(found) if found else None)
        return self._shapes[key]

    def _answers(
        self, messages: list[Message], tools: list[Any] | None, answers: list[int], text: str
    ) -> list[Answer] | None:
        """The answers' spans in `text`; None if it is not stable over its turns."""
        found = []
        for i in answers:
            prompt = self.chat.render(messages[:i], tools, generate=True)
            last = i == len(messages) - 1
            answered = text if last else self.chat.render(messages[: i + 1], tools)
            if not answered.startswith(prompt):
                raise ModelError(
                    "the model's chat template cannot be trained on",
                    "an answered chat does not begin with its generation prompt, so the answers "
                    "cannot be separated from the prompt",
                    "leave out turns that it treats in a special way (often a system turn), use "
                    "another base model, or set data.render: raw",
                )
            content = str(messages[i].get("content") or "")
            answer = _answer(answered, len(prompt), content, self.chat)
            if answered[: answer.end] != text[: answer.end]:
                return None
            found.append(answer)
        return found


def _answer(text: str, prompt: int, content: str, chat: ChatTemplate) -> Answer:
    """Content and stop token after the prompt. What else the template writes is not a target."""
    content = content.strip()
    position = text.find(content, prompt) if content else -1
    start, end = prompt, prompt
    if position >= 0:
        # A separating space belongs to the answer: the model has to write it.
        start = position if text[prompt:position].strip() else prompt
        end = position + len(content)
    ends = [text.find(stop, end) + len(stop) for stop in chat.stops if stop in text[end:]]
    if ends:
        return Answer(start, min(ends), True)
    # Some models end a turn with another token than their eos; it comes right after the answer.
    ending = text[end:].lstrip()
    ends = [
        len(text) - len(ending) + len(word) for word in chat.specials if ending.startswith(word)
    ]
    if ends and position >= 0:
        return Answer(start, max(ends), True)
    return Answer(start, end if position >= 0 else len(text.rstrip()), False)


def _locate(text: str, messages: list[Message]) -> tuple[tuple[int, int, int], ...] | None:
    found, position = [], 0
    for i, message in enumerate(messages):
        content = message.get("content")
        if not content:
            continue
        if content not in text:
            raise BadRow(f"the model's chat template leaves out a {message['role']} turn")
        start = text.find(content)
        if start < position or text.count(content) != 1:
            return None
        position = start + len(content)
        found.append((start, position, i))
    return tuple(found)


def _filled(shape: Shape, contents: list[str], dialogue: Dialogue, text: str) -> Rendered | None:
    if shape.answers is None:
        return None
    places = shape.contents or ()
    structure: list[Span] = []
    shifts: list[tuple[int, int]] = []
    position = shift = 0
    for (start, end, _), content in zip(places, contents, strict=True):
        structure.append((position, start + shift))
        shift += len(content) - (end - start)
        position = end + shift
        shifts.append((end, shift))
    structure.append((position, len(text)))

    def moved(place: int) -> int:
        return place + next((by for end, by in reversed(shifts) if end <= place), 0)

    answers = [
        Answer(moved(answer.start), moved(answer.end), answer.stopped) for answer in shape.answers
    ]
    return replace(_rendered(dialogue, text, answers), structure=tuple(structure))


def _rendered(dialogue: Dialogue, text: str, answers: Sequence[Answer]) -> Rendered:
    last = answers[-1]
    if not last.stopped:
        text = text[: last.end]
    return Rendered(
        dialogue,
        text,
        tuple((answer.start, answer.end) for answer in answers),
        append_eos=not last.stopped,
        prompt_end=last.start,
        reference=dialogue.answer,
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
