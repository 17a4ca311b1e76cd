"""A row as it is learned, in parts: who speaks, what kind of text it is, and what it weighs."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from typing import Any

from tuner.data.chat.spans import SpanFinder
from tuner.data.chat.turn_places import Content, TurnPlaces
from tuner.data.fields import several
from tuner.data.rows.dialogue import Dialogue
from tuner.data.rows.rendered import Rendered
from tuner.data.tokens.encode import Encoded
from tuner.data.tokens.example import Example
from tuner.data.tokens.example_maker import ExampleMaker, Pair
from tuner.data.tokens.prepared import Part, Preview
from tuner.data.turns.reasoning import KEY

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
    if made.goals:
        own = several.said(several.of_answer(rendered.dialogue.answer))
        written = tokenizer(own, add_special_tokens=False)["input_ids"]
    words, decode = maker.encoder.control_words, tokenizer.decode
    parts = parts_of(rendered, encoded, made, words, decode, maker.finder)
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
    finder: SpanFinder | None = None,
) -> list[Part]:
    """Return the parts of an example, as decoded from its tokens.

    Args:
        rendered: its text.
        encoded: with the offsets of its tokens.
        made: the example, perhaps cut.
        words: control tokens, which are marked in the text of rows.
        decode: returns the text of token ids.
        finder: rendered the chat.
    """
    labels = list(_labels(rendered, words, finder))
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


def _labels(rendered: Rendered, words: Sequence[str], finder: SpanFinder | None) -> Iterator[Label]:
    """Yield where each part of a text begins, in order."""
    control = _pattern(words)
    text, messages = rendered.text, rendered.dialogue.messages
    if not messages:
        yield 0, "", "text"
        for match in control.finditer(text):
            written = any(start <= match.start() < end for start, end in rendered.structure)
            yield match.start(), "", "text" if written else "special"
            yield match.end(), "", "text"
        return
    # A stop token that was appended comes behind the text.
    painted = [(str(messages[-1]["role"]), "template")] * (len(text) + 1)
    contents = list(_contents(rendered))
    if finder and not rendered.raw:
        _paint_turns(painted, rendered, TurnPlaces(finder, rendered, contents, control))
    for start, end, number, key in contents:
        role, kind = messages[number]["role"], "reasoning" if key == KEY else "text"
        if finder is None or rendered.raw:
            # What comes between the turns of plain text follows the one before it.
            painted[end:-1] = [(role, "template")] * (len(text) - end)
        painted[start:end] = [(role, kind)] * (end - start)
        for match in control.finditer(text, start, end):
            first, stop = match.span()
            painted[first:stop] = [(role, "special")] * (stop - first)
    place = 0
    for (role, kind), group in groupby(painted):
        yield place, role, kind
        place += len(list(group))


def _paint_turns(painted: list[tuple[str, str]], rendered: Rendered, places: TurnPlaces) -> None:
    """Give what the template wrote to the turns that it was written for."""
    turns = [*zip(rendered.dialogue.messages, places.turns, strict=True)]

    def paint(start: int, end: int, role: str, kind: str) -> None:
        painted[start:end] = [(role, kind)] * (end - start)

    for message, place in turns:
        paint(place.start, place.end, message["role"], "template")
        paint(*place.calls, message["role"], "call")
    paint(0, places.opened, "system", "template")
    for start, end in places.tools:
        # Llama 3 writes them into the first question.
        inside = (message["role"] for message, place in turns if place.start < start < place.end)
        paint(start, end, "system" if start < places.opened else next(inside, "system"), "tools")
    for start, end in rendered.supervised:
        # The token that opens the next turn ends an answer (GLM's).
        painted[start:end] = [
            ("assistant", "template") if each[1] == "template" else each
            for each in painted[start:end]
        ]


def _contents(rendered: Rendered) -> Iterator[Content]:
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
