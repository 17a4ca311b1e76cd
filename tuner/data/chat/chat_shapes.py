"""Chats with neutral contents: what a template writes by itself, and where each text goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.rows.dialogue import Dialogue
from tuner.data.rows.rendered import Rendered, Span
from tuner.data.turns import reasoning
from tuner.data.turns.reasoning import KEY, Message

# What templates write around reasoning and calls; most families have a token for each.
TAGS = (reasoning.OPEN, reasoning.CLOSE, "<tool_call>", "</tool_call>")


@dataclass(frozen=True)
class RenderJob:
    """Turns to render: separated messages, tools, the template's arguments, the turns to learn:
    answers, and others."""

    messages: list[Message]
    tools: list[Any] | None
    arguments: dict[str, Any]
    answers: list[int]
    others: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class AnswerSpan:
    """Span of one answer with its stop token, if the template wrote one.

    `prompt` is where the prompt ends; the answer starts later where its reasoning is no target.
    `after` is what the template writes after it, other than special tokens.
    """

    prompt: int
    start: int
    end: int
    stopped: bool
    after: str = ""


@dataclass(frozen=True)
class ChatShape:
    """A chat with neutral contents. `contents`: span, message and key; None if not locatable."""

    text: str
    contents: tuple[tuple[int, int, int, str], ...] | None
    answers: tuple[AnswerSpan, ...] | None

    def given(self, messages: Sequence[Message], text: str) -> list[str] | None:
        """Return the contents by which the chat becomes `text`, in the order of `contents`; None
        if the template changes them by more than white space around them."""
        if self.contents is None:
            return None
        given = [str(messages[i][key]) for _, _, i, key in self.contents]
        trials = (given, [each.strip() for each in given])
        return next((trial for trial in trials if self.fill(trial) == text), None)

    def fill(self, texts: Sequence[str]) -> str:
        """Return the chat with these contents, one for each of `contents`."""
        parts, position = [], 0
        for (start, end, _, _), text in zip(self.contents or (), texts, strict=True):
            parts += [self.text[position:start], text]
            position = end
        return "".join([*parts, self.text[position:]])


def neutral(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with contents that occur nowhere else."""
    return [
        {
            **message,
            **{key: f"Xq{i}{key}{i}qX" for key in (KEY, "content") if message.get(key)},
        }
        for i, message in enumerate(messages)
    ]


def locate(text: str, messages: list[Message]) -> tuple[tuple[int, int, int, str], ...] | None:
    """Return span, message and key of each neutral content; None if one is there twice or moved.

    Raises:
        BadRow: the template leaves one out.
    """
    found, position = [], 0
    for i, message in enumerate(messages):
        for key in (KEY, "content"):
            mark = message.get(key)
            if not mark or (key == KEY and mark not in text):
                # Most templates drop the reasoning of earlier turns.
                continue
            if mark not in text:
                a = "an" if message["role"].startswith("a") else "a"
                if mark.casefold() in text.casefold():
                    raise BadRow(
                        f"the model's chat template changes the text of {a} {message['role']} turn"
                    )
                calls = " next to its tool calls" if message.get("tool_calls") else ""
                raise BadRow(
                    f"the model's chat template leaves out {a} {message['role']} turn{calls}"
                )
            start = text.find(mark)
            if start < position or text.count(mark) != 1:
                return None
            position = start + len(mark)
            found.append((start, position, i, key))
    return tuple(found)


def written(
    shape: ChatShape, contents: Sequence[str], text: str
) -> tuple[tuple[Span, ...], list[tuple[int, int]]]:
    """Return the spans that the template wrote in a filled shape, and by how much places behind
    each content have moved."""
    structure: list[Span] = []
    shifts: list[tuple[int, int]] = []
    position = shift = 0
    for (start, end, _, _), content in zip(shape.contents or (), contents, strict=True):
        structure.append((position, start + shift))
        shift += len(content) - (end - start)
        position = end + shift
        shifts.append((end, shift))
    structure.append((position, len(text)))
    return tuple(structure), shifts


def filled(shape: ChatShape, contents: list[str], dialogue: Dialogue, text: str) -> Rendered | None:
    """Return a shape filled with contents; None if its answers are not in one text."""
    if shape.answers is None:
        return None
    structure, shifts = written(shape, contents, text)

    def moved(place: int) -> int:
        return place + next((by for end, by in reversed(shifts) if end <= place), 0)

    answers = [
        replace(each, prompt=moved(each.prompt), start=moved(each.start), end=moved(each.end))
        for each in shape.answers
    ]
    return replace(rendered(dialogue, text, answers), structure=structure)


def rendered(dialogue: Dialogue, text: str, answers: Sequence[AnswerSpan]) -> Rendered:
    """Return a text with the spans of its answers."""
    spans = tuple((answer.start, answer.end) for answer in answers)
    after = next((each.after for each in reversed(answers) if each.after), "")
    if not answers or dialogue.messages[-1]["role"] != "assistant":
        # Another turn is the last one that is learned, and the template has written its end.
        return Rendered(dialogue, text, spans, after=after, reference=dialogue.answer)
    last = answers[-1]
    if not last.stopped:
        text = text[: last.end]
    return Rendered(
        dialogue,
        text,
        spans,
        append_eos=not last.stopped,
        after=after,
        prompt_end=last.prompt,
        reference=dialogue.answer,
    )


def with_stop(answer: AnswerSpan, text: str, stops: Iterable[str]) -> AnswerSpan:
    """Return an answer with the stop token that opens the next turn (GLM's), if it has none."""
    for stop in () if answer.stopped else stops:
        if text.startswith(stop, answer.end):
            return replace(answer, end=answer.end + len(stop), stopped=True)
    return answer


def strings_of(value: Any) -> Iterator[str]:
    """Yield the texts in nested lists and objects, their keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from strings_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_of(item)


def anywhere(example: Rendered, text: str, chat: RenderJob, pattern: str) -> Rendered:
    """Return an example of a whole text in which the contents were not found; `pattern` is the
    same chat with neutral ones."""
    texts = tuple(strings_of([*chat.messages, chat.tools]))
    return replace(example, structure=((0, len(text)),), unlocated=texts, pattern=pattern)


def unlocated_texts(chat: RenderJob) -> tuple[str, ...]:
    """Return the texts of a chat other than the contents that were found."""
    extras = [{**reasoning.without(message), "content": None} for message in chat.messages]
    return tuple(strings_of([*extras, chat.tools]))


def after_answer(text: str, specials: Iterable[str]) -> str:
    """Return what comes after an answer and its stop token, without special tokens."""
    for word in specials:
        text = text.replace(word, "")
    return text.strip()


def tags_of(example: Rendered) -> set[str]:
    """Return which of `TAGS` the template itself wrote in an example."""
    text, spans = example.text, example.structure
    written = example.pattern or "\0".join(text[start:end] for start, end in spans)
    return {tag for tag in TAGS if tag in written}
