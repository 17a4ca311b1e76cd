"""Rows longer than `data.max_length`: refused, or plain text in pieces, as `data.long` says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tuner.data.encode import Encoded
from tuner.data.example_maker import MAX_LOST_SHARE, ExampleMaker, Pair, unread
from tuner.data.template import Template
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection

LISTED = 3
# Room for moving a border out of a character of several tokens, with something left to learn.
SMALLEST_PIECE = 16


@dataclass(frozen=True)
class Lost:
    """What truncation would take from one example.

    Args:
        row: the row's id.
        tokens: how many it has.
        most: whether more than half of them, or of its answer, would go.
        all: whether nothing of its answer would be left.
    """

    row: str
    tokens: int
    most: bool
    all: bool


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


def settle(
    data: DataSection, maker: ExampleMaker, splits: Sequence[Sequence[Pair]], room: int
) -> list[list[Pair]]:
    """Return the examples of both splits as `data.long` asks; truncation is left to the maker.

    Args:
        data: the recipe's data section.
        maker: counts the pieces.
        splits: training rows and held-out rows, encoded.
        room: tokens that the model can take.

    Raises:
        DataError: a row is too long: with `error` for `max_length`, with `auto` by so much that
            less than half of its tokens, or of its answer, would be left.
    """
    if data.long == "split":
        tallies = (maker.train, maker.eval)
        return [
            [piece for pair in pairs for piece in _pieces(pair, maker.max_length, tally.pieces)]
            for pairs, tally in zip(splits, tallies, strict=True)
        ]
    if data.long != "truncate":
        lost = [each for pairs in splits for each in _losses(pairs, maker)]
        if any(each.most or data.long == "error" for each in lost):
            rows = len({rendered.dialogue.row for pairs in splits for rendered, _ in pairs})
            raise _refusal(data, maker, lost, rows, room)
    return [list(pairs) for pairs in splits]


def _losses(pairs: Sequence[Pair], maker: ExampleMaker) -> Iterator[Lost]:
    for rendered, encoded in pairs:
        unseen = unread(rendered, encoded)
        if maker.head == "language" and len(encoded.ids) <= maker.max_length and not unseen:
            continue
        made = maker.example(rendered, encoded)
        whole = maker.whole_length(encoded, made) + unseen
        answer = sum(encoded.supervised)
        learned = answer if maker.head == "classes" else made.num_targets
        if made.num_tokens < whole or learned < answer:
            most = 2 * made.num_tokens < whole or 2 * learned < answer
            # The written part has its own length.
            needed = max(whole - len(made.target), answer if made.target else 0)
            yield Lost(rendered.dialogue.row, needed, most, not learned)


def _refusal(
    data: DataSection, maker: ExampleMaker, lost: Sequence[Lost], rows: int, room: int
) -> DataError:
    refused = [each for each in lost if each.most or data.long == "error"]
    number = len({each.row for each in refused})
    what = (
        f"{number} of {rows} rows would lose more than half of {'its' if number == 1 else 'their'} "
    )
    what += f"text or answer at data.max_length {maker.max_length:,}"
    if data.long == "error":
        be = "is" if number == 1 else "are"
        what = f"{number} of {rows} rows {be} longer than {maker.max_length:,} tokens"
    shown = ", ".join(f"{each.row} ({each.tokens:,} tokens)" for each in refused[:LISTED])
    longest = max(each.tokens for each in lost)
    ways = [f"data.max_length: {longest} (the longest row)"] if longest <= room else []
    if maker.plain:
        ways.append("data.long: split (pieces of that length, and nothing is lost)")
    if len({each.row for each in lost if each.all}) <= MAX_LOST_SHARE * rows:
        ways.append("data.long: truncate (what is cut off is not trained on)")
    why = f"{shown}{', ...' if len(refused) > LISTED else ''}"
    if longest > room:
        why += f"; the model's context is {room:,} tokens"
    return DataError(
        what, why, f"set {', or '.join(ways)}" if ways else "shorten these rows, or leave them out"
    )


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
