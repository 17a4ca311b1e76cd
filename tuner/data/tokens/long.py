"""Rows longer than `data.max_length`: cut, left out or refused, or plain text in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.data.templates.template import Template
from tuner.data.tokens.cut import RowCutter
from tuner.data.tokens.encode import Encoded, unread
from tuner.data.tokens.example import Example
from tuner.data.tokens.example_maker import MAX_LOST_SHARE, ExampleMaker, Pair
from tuner.data.tokens.prepared import Inputs
from tuner.data.tokens.tally import Tally
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_rows import share_of

LISTED, MOST_TRIED = 3, 200
# Room for moving a border out of a character of several tokens, with something left to learn.
SMALLEST_PIECE = 16
# Lengths that a plan chooses are multiples of these.
STEP = 64


@dataclass(frozen=True)
class Lost:
    """What truncation would take from one example.

    Args:
        row: the row's id.
        tokens: how many it has.
        most: whether more than half of them, or of its answer, would go.
        all: whether nothing of its answer would be left.
        pair: the example.
    """

    row: str
    tokens: int
    most: bool
    all: bool
    pair: Pair


def refuse_split(data: DataSection, templates: Sequence[Template], head: str) -> None:
    """Refuse to split what is not plain text.

    Raises:
        RecipeError: `data.long` is split, and the rows have prompts and answers, or are classified.
    """
    asked = [template.name for template in templates if template.text is None]
    if data.long == "split" and (asked or head != "language"):
        raise RecipeError(
            "data.long: split works on plain text only",
            f"the data template '{asked[0]}' makes a prompt and an answer, and a piece "
            "without its prompt would teach something else"
            if head == "language"
            else "this model does not continue text, it reads a row and answers",
            "set data.long: truncate or error, or a larger data.max_length",
        )


class Fitting:
    """Makes the rows of both splits fit, as the recipe says.

    Args:
        inputs: the recipe's data section, and the model's context.
        maker: makes the examples; gets the length that a share of the rows decides.
        labels: answers to choose from.
    """

    def __init__(self, inputs: Inputs, maker: ExampleMaker, labels: Sequence[str]) -> None:
        self._data, self._maker, self._labels = inputs.data, maker, labels
        self._room, self._pieces = inputs.context_length, inputs.splits(maker.head)
        self._lost: list[Lost] = []

    def settle(self, train: Sequence[Pair], held: Sequence[Pair]) -> list[list[Pair]]:
        """Return the rows as they fit; truncation is left to the maker.

        Raises:
            DataError: with `data.long: error`, a row is too long; else, more than a tenth of the
                rows could lose nothing but their answer; with `data.cut: answer`, a row would lose
                more than half of its tokens, or of its answer.
        """
        maker, data = self._maker, self._data
        if share := share_of(data.max_length):
            lengths = sorted(_needed(pair, maker) for pair in train)
            longest = lengths[max(0, math.ceil(share * len(lengths)) - 1)] if lengths else 1
            maker.max_length = min(maker.max_length, longest)
        found = [self.fitted(train, maker.train), self.fitted(held, maker.eval)]
        self._refuse([train, held])
        return found

    def fitted(self, pairs: Sequence[Pair], tally: Tally) -> list[Pair]:
        """Return the rows of a split as they fit into the maker's length."""
        way = "auto" if self._data.cut == "drop" else self._data.cut
        cutter = RowCutter(self._maker, tally, way, tally is self._maker.eval, self._labels)
        return [each for pair in pairs for each in self._fitted(pair, cutter, tally)]

    def _fitted(self, pair: Pair, cutter: RowCutter, tally: Tally) -> Iterator[Pair]:
        """A row as it is, in pieces, shorter, or not at all."""
        rendered, encoded = pair
        data, maker = self._data, self._maker
        if rendered.dialogue.plain and self._pieces:
            yield from _pieces(pair, maker.max_length, tally.pieces)
            return
        lost = _loss(pair, maker)
        if lost is None and cutter.over(pair) <= 0:
            yield pair
            return
        if data.cut == "answer" or data.long == "error":
            if lost and data.long != "truncate":
                self._lost.append(lost)
            yield pair
            return
        shorter = None if data.cut == "drop" else cutter.fitted(pair)
        if shorter:
            yield shorter
        elif lost is None or (data.long == "truncate" and data.cut != "drop"):
            yield pair
        else:
            self._lost.append(lost)
            tally.left_out.add(lost.row)
            tally.supervised_cut += sum(encoded.supervised)

    def _refuse(self, splits: Sequence[Sequence[Pair]]) -> None:
        lost, data, most = self._lost, self._data, self._maker.max_length
        rows = len({rendered.dialogue.row for pairs in splits for rendered, _ in pairs})
        those = {each.row: each for each in lost}
        if data.cut == "answer" and data.long == "auto":
            refused = {row: each for row, each in those.items() if each.most}
            some = "its" if len(refused) == 1 else "their"
            what = f"would lose more than half of {some} text or answer at data.max_length {most:,}"
        elif data.long == "error":
            refused = those
            what = f"{'is' if len(refused) == 1 else 'are'} longer than {most:,} tokens"
        else:
            few = MAX_LOST_SHARE if data.cut != "drop" else 1
            refused = those if len(those) > few * rows or len(those) == rows else {}
            what = f"would lose a part of the answer at data.max_length {most:,}"
            if data.cut == "drop":
                what = f"are longer than data.max_length {most:,}"
        if refused:
            raise self._refusal(f"{len(refused)} of {rows} rows {what}", [*refused.values()], rows)

    def _refusal(self, what: str, refused: Sequence[Lost], rows: int) -> DataError:
        lost, data = self._lost, self._data
        shown = ", ".join(f"{each.row} ({each.tokens:,} tokens)" for each in refused[:LISTED])
        longest = max(each.tokens for each in lost)
        ways = []
        if longest <= self._room:
            ways.append(f"data.max_length: {longest} (the longest of them)")
        if self._maker.plain and not self._pieces:
            ways.append("data.long: split (pieces of that length, and nothing is lost)")
        if data.cut in ("auto", "oldest_turns") and data.long == "auto" and self._documents():
            ways.append("data.cut: document (cut the end of the longest text before the answer)")
        if data.cut != "drop" and data.long != "error" and len({e.row for e in lost}) < rows:
            ways.append("data.cut: drop (leave these rows out)")
        if len({each.row for each in lost if each.all}) <= MAX_LOST_SHARE * rows:
            ways.append("data.long: truncate (what is cut off is not trained on)")
        why = f"{shown}{', ...' if len(refused) > LISTED else ''}"
        if longest > self._room:
            why += f"; the model's context is {self._room:,} tokens"
        fix = f"set {', or '.join(ways)}" if ways else "shorten these rows, or leave them out"
        return DataError(what, why, fix)

    def _documents(self) -> bool:
        """Whether all the rows fit once the longest text before their answers is cut."""
        cutter = RowCutter(self._maker, Tally(), "document", False, ())
        return all(cutter.fitted(each.pair) for each in self._lost[:MOST_TRIED])


def length_facts(
    inputs: Inputs, maker: ExampleMaker, templates: Sequence[Template], examples: Sequence[Example]
) -> dict[str, Any]:
    """Return the report's `max_length`, and how rows were made to fit, for the plan's table.

    Args:
        inputs: the recipe's data section.
        maker: of the examples.
        templates: of the rows.
        examples: those that are trained: as with their tokens, held-out rows change nothing.
    """
    longest = max(max(len(each.input_ids), len(each.target)) for each in examples)
    whole = not maker.train.shortened
    length, why = chosen_length(inputs.data, longest, maker.max_length, whole)
    ways = {
        "document": "columns " + ", ".join({name: 0 for t in templates for name in t.documents}),
        "oldest_turns": "chats",
        "drop": "only the answer could be cut",
    }
    chats = any(each.conversation for each in templates)
    documents = any(each.documents for each in templates)
    way = "document" if documents else "oldest_turns" if chats else "drop"
    plain = maker.plain and inputs.splits(maker.head)
    return {
        "max_length": length,
        "fitting": {
            "max_length": why,
            "long": "split" if plain else "truncate",
            "long_why": "plain text loses nothing" if plain else "what data.cut says is cut",
            "cut": way,
            "cut_why": ways[way],
        },
    }


def chosen_length(data: DataSection, longest: int, limit: int, lossless: bool) -> tuple[int, str]:
    """Return what `max_length` a plan has, and why if that follows from the rows.

    Args:
        data: the recipe's data section.
        longest: tokens of the longest example.
        limit: by which rows were cut.
        lossless: whether none was.
    """
    if share_of(data.max_length):
        return limit, f"{data.max_length} of the training rows are not longer"
    if data.max_length == "auto" and lossless:
        length = min(limit, -(-longest // STEP) * STEP)
        if length < limit:
            return length, f"the longest row has {longest:,} tokens"
    return limit, ""


def _needed(pair: Pair, maker: ExampleMaker) -> int:
    rendered, encoded = pair
    made = maker.example(rendered, encoded)
    whole = maker.whole_length(encoded, made) + unread(rendered, encoded)
    # The written part has its own length.
    answer = sum(encoded.supervised) if made.target else 0
    return max(whole - len(made.target), answer)


def _loss(pair: Pair, maker: ExampleMaker) -> Lost | None:
    """What truncation would take from an example; None if nothing."""
    rendered, encoded = pair
    unseen = unread(rendered, encoded)
    if maker.head == "language" and len(encoded.ids) <= maker.max_length and not unseen:
        return None
    made = maker.example(rendered, encoded)
    whole = maker.whole_length(encoded, made) + unseen
    answer = sum(encoded.supervised)
    learned = answer if maker.head == "classes" else made.num_targets
    if made.num_tokens >= whole and learned >= answer:
        return None
    most = 2 * made.num_tokens < whole or 2 * learned < answer
    return Lost(rendered.dialogue.row, _needed(pair, maker), most, not learned, pair)


def _pieces(pair: Pair, most: int, counts: dict[str, int]) -> Iterator[Pair]:
    """A text in as few pieces as fit, of nearly equal length, none cut inside a character.

    Each begins with what the tokenizer puts before every text; the text's own tokens, and the stop
    token after the last one, are each in exactly one piece.
    """
    rendered, encoded = pair
    if len(encoded.ids) <= most:
        yield pair
        return
    opening = encoded.ids[: encoded.opening]
    room = most - len(opening)
    if room < SMALLEST_PIECE:
        raise RecipeError(
            f"data.max_length: {most} leaves no room for pieces of a text",
            f"a piece needs {SMALLEST_PIECE} tokens of text, after {len(opening)} special ones",
            "set a larger data.max_length",
        )
    start, end, number = len(opening), len(encoded.ids), 0
    while start < end:
        parts = -(-(end - start) // room)
        stop = _border(start, start - (start - end) // parts, encoded.inside)
        number += 1
        ids = opening + encoded.ids[start:stop]
        supervised = [False] * len(opening) + encoded.supervised[start:stop]
        # There is nothing before the first token to predict it from.
        supervised[0] = False
        foreign = 0 if number > 1 else encoded.foreign
        yield rendered, Encoded(ids, supervised, [], foreign, len(opening))
        start = stop
    counts[rendered.dialogue.row] = number


def _border(start: int, stop: int, inside: frozenset[int]) -> int:
    """The last place up to `stop` where a character begins; `stop` itself if there is none."""
    return next((place for place in range(stop, start, -1) if place not in inside), stop)
