"""Where the turns of a chat are in its text: what a template writes for each, and for tools.

Found by rendering the chat up to each turn, alone and with the header of the next answer, and
without its tools. For readers only: what is learned does not depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.chat.spans import SpanFinder
from tuner.data.rows.rendered import Rendered, Span
from tuner.data.turns import tool_calls
from tuner.data.turns.reasoning import CLOSE, KEY, Message

# Where a turn's text is: start, end, number of the turn, and its key.
Content = tuple[int, int, int, str]
# No control token is longer.
_LONGEST = 64
_ASKED, _SAID, _AGAIN = "XqaskedqX", "XqsaidqX", "XqagainqX"
# Control tokens that the tokenizer does not have as such count as no words.
_CLOSED = re.compile(rf"\s*{CLOSE}\s*")
_NO_WORDS = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]|\W")


@dataclass(frozen=True)
class Place:
    """Where what a template writes for a turn begins and ends, and the stretch of its calls."""

    start: int
    end: int
    calls: Span


class TurnPlaces:
    """Finds the turns of one example.

    Args:
        finder: rendered it.
        rendered: the example.
        contents: where the texts of its turns are, in order.
        control: finds control tokens.

    Attributes:
        turns: the turns, in order.
        tools: the stretches that show the tools.
        opened: where the first turn begins: a template may write a system turn of its own, or
            tools, before it.
    """

    def __init__(
        self,
        finder: SpanFinder,
        rendered: Rendered,
        contents: Sequence[Content],
        control: re.Pattern[str],
    ) -> None:
        self._finder, self._control, self._text = finder, control, rendered.text
        self._messages = list(rendered.dialogue.messages)
        self._given = rendered.dialogue.tools
        reasons = bool(rendered.dialogue.last_answer.get(KEY))
        self._arguments = finder.chat.arguments(reasons)
        calls = finder.chat.abilities.calls
        self._names = [
            [name for name, _ in tool_calls.made(message)] if calls else []
            for message in self._messages
        ]
        self._contents: dict[int, list[Content]] = {}
        for each in contents:
            self._contents.setdefault(each[2], []).append(each)
        self._header = self._question()
        self.turns = [*self._turns()]
        self.tools = [*self._shown_tools()]
        self.opened = self._opened()

    def _render(
        self, messages: Sequence[Message], tools: list[Any] | None, generate: bool = False
    ) -> str:
        """A chat as text; empty if the template refuses it."""
        try:
            turns = self._finder.native(messages)
            return self._finder.chat.render(turns, tools, generate, self._arguments)
        except BadRow:
            return ""

    def _turns(self) -> Iterator[Place]:
        start = 0
        for number in range(len(self._messages)):
            last = self._last(start, number)
            if last is None:
                yield Place(start, start, (start, start))
                continue
            alone = self._render(self._messages[: number + 1], self._given)
            end = self._closed(self._text, last, self._behind(alone, start, last, number))
            yield Place(start, end, self._calls(start, end, number))
            start = end

    def _last(self, start: int, number: int) -> int | None:
        """Where the last thing ends that a turn says; None if it is not shown."""
        spans = self._contents.get(number, ())
        end = spans[-1][1] if spans else None
        place = start if end is None else end
        for name in self._names[number]:
            if (found := self._text.find(name, place)) >= 0:
                end = place = found + len(name)
        return end

    def _behind(self, alone: str, start: int, last: int, number: int) -> str:
        """What comes after all that a turn says, in a chat that ends with it."""
        begins = [start, *(each[0] for each in self._contents.get(number, ()))]
        begins += [each.start() for each in self._control.finditer(self._text, start, last)]
        begins += [self._text.find(name, start) for name in self._names[number][:1]]
        for begin in begins:
            _, found, tail = alone.rpartition(self._text[begin:last])
            if found:
                return tail
        return ""

    def _closed(self, text: str, place: int, tail: str) -> int:
        """Where a turn ends in a text if `tail` follows it where no further turn comes."""
        end = self._snapped(text, place + _alike(text[place:], tail))
        rest = tail[end - place :].rstrip()
        here, there = (self._control.match(each, at) for each, at in ((text, end), (rest, 0)))
        # gpt-oss ends the last turn with another token than the others.
        return here.end() if here and there and there.end() == len(rest) else end

    def _calls(self, start: int, end: int, number: int) -> Span:
        """The stretch of a turn's calls: behind its text or its header, up to its end token."""
        if not self._names[number]:
            return end, end
        stop = len(self._text[start:end].rstrip()) + start
        for word in self._finder.chat.stops:
            if self._text[start:stop].endswith(word):
                stop -= len(word)
                break
        if spans := self._contents.get(number):
            closed = _CLOSED.match(self._text, spans[-1][1])
            return closed.end() if closed else spans[-1][1], stop
        before = self._messages[:number]
        asked = self._render(before, self._given, generate=True)
        alone = self._render(before, self._given)
        header = asked[len(alone) :] if asked.startswith(alone) else ""
        return self._snapped(self._text, start + _alike(self._text[start:], header)), stop

    def _snapped(self, text: str, place: int) -> int:
        """A place, or the beginning of the control token that it is in the middle of."""
        for found in self._control.finditer(text, max(0, place - _LONGEST), place + _LONGEST):
            if found.start() < place < found.end():
                return found.start()
        return place

    def _question(self) -> str:
        """What the template writes before a question; empty where that cannot be known."""
        turns = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}]
        alone = self._render(turns, None)
        again = self._render([*turns, {"role": "user", "content": _AGAIN}], None)
        if _SAID not in alone or not again.rpartition(_AGAIN)[0].partition(_SAID)[2]:
            return ""
        start = again.find(_SAID) + len(_SAID)
        start = self._closed(again, start, alone.partition(_SAID)[2])
        return again[start : again.find(_AGAIN)]

    def _opened(self) -> int:
        first = self._messages[0]["role"]
        if first != "user" or not self._contents.get(0):
            return 0
        before = self._text[: self._contents[0][0][0]]
        shown = [(start, end) for start, end in self.tools if end <= len(before)]
        for start, end in reversed(shown):
            before = before[:start] + before[end:]
        place = len(before) - _alike(before[::-1], self._header[::-1])
        place = self._snapped(before, place)
        # A first token alone is no turn.
        words = _NO_WORDS.sub("", self._control.sub("", before[:place]))
        outside = [(start, end) for start, end in shown if start <= place]
        place += sum(end - start for start, end in outside)
        return place if words or outside else 0

    def _shown_tools(self) -> Iterator[Span]:
        if not self._given:
            return
        for turns in (self._messages, self._messages[: self._first_question() + 1]):
            theirs, ours = (self._render(turns, tools) for tools in (None, self._given))
            if theirs and ours:
                break
        position = 0
        for segment in self._added(theirs, ours):
            if (start := self._text.find(segment, position)) >= 0:
                position = start + len(segment)
                yield self._turned(start, position)

    def _first_question(self) -> int:
        roles = [each["role"] for each in self._messages]
        return roles.index("user") if "user" in roles else 0

    def _added(self, theirs: str, ours: str) -> Iterator[str]:
        """What names a tool in one text and is not in the other."""
        names = [str(tool.get("function", tool).get("name")) for tool in self._given or ()]
        one, other = self._chunks(theirs), self._chunks(ours)
        matcher = SequenceMatcher(None, one, other, autojunk=False)
        for kind, first, stop, start, end in matcher.get_opcodes():
            before, after = "".join(one[first:stop]), "".join(other[start:end])
            after = after[_alike(before, after) :]
            if kind in ("insert", "replace") and any(name in after for name in names):
                yield after

    def _turned(self, start: int, end: int) -> Span:
        """A stretch moved to where it begins with a turn or a line, if the same text is left."""
        token = self._control.match(self._header)
        wanted = [token.group()] if token else []
        for by in range(_alike(self._text[start:end], self._text[end:]) + 1):
            if any(self._text.startswith(word, start + by) for word in wanted):
                return start + by, end + by
        while start < end and self._text[start] == "\n" == self._text[end : end + 1]:
            start, end = start + 1, end + 1
        return start, end

    def _chunks(self, text: str) -> list[str]:
        """A text in control tokens and lines."""
        chunks, position = [], 0
        for found in self._control.finditer(text):
            chunks += [*text[position : found.start()].splitlines(keepends=True), found.group()]
            position = found.end()
        return [*chunks, *text[position:].splitlines(keepends=True)]


def _alike(one: str, other: str) -> int:
    """The characters in which two texts begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
