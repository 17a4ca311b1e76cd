"""A row as it is learned, in parts: who speaks, what kind of text it is, and what it weighs."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from typing import Any

from tuner.data.dialogue import Dialogue
from tuner.data.encode import Encoded
from tuner.data.example import Example
from tuner.data.example_maker import ExampleMaker, Pair
from tuner.data.prepared import Part, Preview
from tuner.data.reasoning import KEY, Message
from tuner.data.rendered import Rendered, Span

# Who speaks and the kind of text, from a character on.
Label = tuple[int, str, str]


def preview_of(maker: ExampleMaker, pair: Pair, labels: Sequence[str], tokenizer: Any) -> Preview:
    """Return a row as it is learned.

    Args:
        maker: makes the example.
        pair: the row's text and its tokens, with their offsets.
        labels: the classes, for a classification head.
        tokenizer: of the base.
    """
    rendered, encoded = pair
    made = maker.example(rendered, encoded)
    # What an encoder-decoder writes, or the class, comes after what is read.
    written = list(made.target)
    if made.label is not None:
        written = tokenizer(labels[made.label], add_special_tokens=False)["input_ids"]
    parts = parts_of(rendered, encoded, made, maker.encoder.control_words, tokenizer.decode)
    if written:
        parts.append(Part("assistant", "text", tokenizer.decode(written), True, 1.0))
    whole = maker.whole_length(encoded, made)
    cut = made.num_tokens < whole or made.row in maker.train.shortened
    return Preview(made.row, parts, whole, cut, made.input_ids + written)


def parts_of(
    rendered: Rendered,
    encoded: Encoded,
    made: Example,
    words: Sequence[str],
    decode: Callable[[list[int]], str],
) -> list[Part]:
    """Return the parts of an example, as decoded from its tokens.

    Args:
        rendered: its text.
        encoded: with the offsets of its tokens.
        made: the example, perhaps cut.
        words: control tokens, which are marked in the text of rows.
        decode: returns the text of token ids.
    """
    labels = list(_labels(rendered, words))
    starts = [label[0] for label in labels]
    tokens = []
    for place, token in enumerate(made.input_ids):
        first, end = encoded.offsets[place] if place < len(encoded.offsets) else (0, 0)
        _, role, kind = labels[max(0, bisect_right(starts, max(first, end - 1)) - 1)]
        learned = made.supervised[place]
        weight = (made.weights[place] if made.weights else 1.0) if learned else 0.0
        tokens.append(((role, kind, learned, weight), token))
    parts = []
    for (role, kind, learned, weight), group in groupby(tokens, key=lambda each: each[0]):
        ids = [token for _, token in group]
        pieces = tuple(decode([each]) for each in ids) if kind == "special" else ()
        parts.append(Part(role, kind, decode(ids), learned, weight, pieces))
    return parts


def spelled_out(
    part: Part, ids: Sequence[int], words: Sequence[str], decode: Callable[[list[int]], str]
) -> list[Part]:
    """Return a part of these tokens in parts: the special tokens that its text spells out apart.

    One that the chat template wrote is a single token.
    """
    texts = [decode([each]) for each in ids]
    ends = list(accumulate(map(len, texts)))
    found: list[Part] = []
    done = 0
    for match in _pattern(words).finditer("".join(texts)):
        first, last = (bisect_right(ends, place) for place in (match.start(), match.end() - 1))
        if first == last or first < done:
            continue
        if first > done:
            found.append(replace(part, text=decode(list(ids[done:first]))))
        done = last + 1
        pieces = tuple(texts[first:done])
        text = decode(list(ids[first:done]))
        found.append(replace(part, kind="special", text=text, pieces=pieces))
    if done < len(ids) or not found:
        found.append(replace(part, text=decode(list(ids[done:]))))
    return found


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    longest = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or r"(?!)")


def _labels(rendered: Rendered, words: Sequence[str]) -> Iterator[Label]:
    """Yield where each part of a text begins, in order."""
    messages, position = rendered.dialogue.messages, 0
    control = _pattern(words)
    if not messages:
        yield 0, "", "text"
        for match in control.finditer(rendered.text):
            written = any(start <= match.start() < end for start, end in rendered.structure)
            yield match.start(), "", "text" if written else "special"
            yield match.end(), "", "text"
        return
    between = _Between(rendered, control)
    before: Message = {"role": ""}
    for start, end, number, key in _contents(rendered):
        yield from between.labels((position, start), before, messages[number])
        before = messages[number]
        kind = "reasoning" if key == KEY else "text"
        yield start, before["role"], kind
        for match in control.finditer(rendered.text, start, end):
            yield match.start(), before["role"], "special"
            yield match.end(), before["role"], kind
        position = end
    yield from between.labels((position, len(rendered.text)), before, messages[-1])
    # A stop token that was appended.
    yield len(rendered.text), messages[-1]["role"], "template"


class _Between:
    """What the template wrote between the texts of two turns: the end of the one, the beginning of
    the other, and tools or calls."""

    def __init__(self, rendered: Rendered, control: re.Pattern[str]) -> None:
        self._text, self._answers, self._control = rendered.text, rendered.supervised, control
        self._tools = _names(rendered.dialogue.tools or ())

    def labels(self, span: Span, before: Message, after: Message) -> Iterator[Label]:
        """Yield where its parts begin."""
        start, end = span
        if start == end:
            return
        if before["role"]:
            called = self._upto(start, end, _names(before.get("tool_calls") or ()))
            kind = "template" if called == start else "call"
            shows_tools = self._has(self._text[start:end], self._tools) and called == start
            find = self._control.match if shows_tools else self._control.search
            stop = find(self._text, start, end)
            close = called if called > start else stop.end() if stop else start
            if close > start and before is not after:
                yield start, before["role"], kind
                start = close
        for first, stop_at in self._answers:
            if start < stop_at and first < end:
                first, stop_at = max(start, first), min(end, stop_at)
                yield from self._tools_in(start, first, after["role"])
                kind = "call" if self._has(self._text[first:stop_at], self._tools) else "template"
                yield first, "assistant", kind
                start = stop_at
        yield from self._tools_in(start, end, after["role"])

    def _tools_in(self, start: int, end: int, role: str) -> Iterator[Label]:
        close = start
        if self._has(self._text[start:end], self._tools):
            yield start, "system", "tools"
            # The last control token begins what comes next.
            last = [each.start() for each in self._control.finditer(self._text, start, end)]
            close = last[-1] if last else end
        if end > close:
            yield close, role, "template"

    def _upto(self, start: int, end: int, names: Sequence[str]) -> int:
        """Where the stretch with these names ends: after the control token that follows them."""
        last = max((self._text.rfind(name, start, end) for name in names), default=-1)
        if last < 0:
            return start
        stop = self._control.search(self._text, last, end)
        return stop.end() if stop else end

    def _has(self, text: str, names: Sequence[str]) -> bool:
        return any(name in text for name in names)


def _names(tools: Sequence[Any]) -> list[str]:
    functions = [tool.get("function", tool) for tool in tools]
    return [str(each["name"]) for each in functions if isinstance(each, dict) and each.get("name")]


def _contents(rendered: Rendered) -> Iterator[tuple[int, int, int, str]]:
    """Yield span, turn and key of the turns' texts, in order: those between what the template
    wrote, or where that is not known, the next place that has the text."""
    given = list(_given(rendered.dialogue))
    known = len(rendered.structure) > 1
    gaps = [
        (before[1], after[0])
        for before, after in zip(rendered.structure, rendered.structure[1:], strict=False)
    ]
    position = 0
    for number, key, text in given:
        if known:
            found = next((gap for gap in gaps if rendered.text[slice(*gap)].strip() == text), None)
            gaps = gaps[gaps.index(found) + 1 :] if found else gaps
        else:
            start = rendered.text.find(text, position)
            found = (start, start + len(text)) if start >= 0 else None
        if found:
            position = found[1]
            yield *found, number, key


def _given(dialogue: Dialogue) -> Iterator[tuple[int, str, str]]:
    for number, message in enumerate(dialogue.messages):
        for key in (KEY, "content"):
            if text := str(message.get(key) or "").strip():
                yield number, key, text
