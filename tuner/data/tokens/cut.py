"""Rows over `data.max_length`: what `data.cut` takes from them, so that the answer stays whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from tuner.data.bad_rows import BadRow
from tuner.data.rows.dialogue import Dialogue, Message
from tuner.data.tokens.example_maker import ExampleMaker, Pair
from tuner.data.tokens.tally import Tally

# A text that would keep fewer tokens than these is no document any more.
LEAST = 16
_TRIES = 12
# A cut goes back to the end of a word, unless that word is longer.
_LONGEST_WORD = 24

Kept = TypeVar("Kept")


class Cutter(ABC, Generic[Kept]):
    """Cuts rows, or prompts, until they fit.

    Args:
        maker: renders and encodes what is left; has the length.
        tally: counts what is cut.
        way: of `data.cut`, except drop.
    """

    def __init__(self, maker: ExampleMaker, tally: Tally, way: str) -> None:
        self.maker, self._tally, self._way = maker, tally, way

    @abstractmethod
    def over(self, kept: Kept) -> int:
        """Return how many tokens too many there are."""

    @abstractmethod
    def dialogue(self, kept: Kept) -> Dialogue:
        """Return the row."""

    @abstractmethod
    def again(self, kept: Kept, dialogue: Dialogue) -> Kept | None:
        """Return the same behind what is left of the row; None if it cannot be encoded."""

    def fitted(self, kept: Kept) -> Kept | None:
        """Return what fits with its answer whole; None if nothing else can be cut."""
        dialogue = self.dialogue(kept)
        if self._way in ("auto", "oldest_turns"):
            kept = self._without_turns(kept)
        texts: tuple[str, ...] = dialogue.documents if self._way == "auto" else ()
        if self._way == "document":
            there = [text for text in dialogue.documents if _shorter(dialogue, text, "")]
            texts = tuple(there) or _longest(dialogue)
        for text in texts:
            if self.over(kept) > 0:
                kept = self._without_end(kept, text) or kept
        if self.over(kept) > 0:
            return None
        left = self.dialogue(kept)
        if len(left.messages) < len(dialogue.messages):
            self._tally.turns.add(dialogue.row)
        if left.cut_texts:
            self._tally.documents.add(dialogue.row)
        return kept

    def _without_turns(self, kept: Kept) -> Kept:
        """A chat without its oldest turns: as few as necessary, up to the last question."""
        dialogue, found = self.dialogue(kept), kept
        head = [each for each in dialogue.messages[:1] if each["role"] == "system"]
        starts = _questions(dialogue.messages)
        low, high = 0, len(starts) - 1
        while low <= high:
            middle = (low + high) // 2
            rest = (*head, *dialogue.messages[starts[middle] :])
            shorter = self.again(kept, replace(dialogue, messages=rest))
            if shorter is None:
                return kept
            fits = self.over(shorter) <= 0
            if fits or middle == len(starts) - 1:
                found = shorter
            low, high = (low, middle - 1) if fits else (middle + 1, high)
        return found

    def _without_end(self, kept: Kept, text: str) -> Kept | None:
        """A row whose document is shorter; None if it would be too short, or is not there."""
        dialogue = self.dialogue(kept)
        if not _shorter(dialogue, text, ""):
            return None
        offsets = self.maker.encoder.offsets(text)
        keep = len(offsets)
        for _ in range(_TRIES):
            over = self.over(kept)
            if over <= 0:
                return kept
            keep -= over
            if keep < LEAST:
                return None
            found = _shorter(dialogue, text, _to_word(text, offsets[keep - 1][1]))
            shorter = found and self.again(kept, found)
            if not shorter:
                return None
            kept = shorter
        return None


class RowCutter(Cutter[Pair]):
    """Cuts rows.

    Args:
        maker: see `Cutter`.
        tally: see `Cutter`.
        way: see `Cutter`.
        held: the rows are held out, so that their prompts are needed and every label must fit.
        labels: answers to choose from.
    """

    def __init__(
        self, maker: ExampleMaker, tally: Tally, way: str, held: bool, labels: Sequence[str]
    ) -> None:
        super().__init__(maker, tally, way)
        self._prompts = held or maker.head != "language"
        scored = labels if held and maker.head == "language" else ()
        self._sizes = {label: len(maker.encoder.offsets(label)) for label in scored}

    def over(self, kept: Pair) -> int:
        """Return how many tokens too many a row has; of an encoder-decoder, its prompt."""
        rendered, encoded = kept
        maker = self.maker
        over = len(encoded.ids) - maker.max_length
        if maker.head != "language":
            over = len(encoded.prompt_ids) + len(maker.suffix) - maker.max_length
        own = self._sizes.get(rendered.dialogue.answer.strip())
        return over if own is None else over + max(self._sizes.values()) - own

    def dialogue(self, kept: Pair) -> Dialogue:
        """Return the row."""
        return kept[0].dialogue

    def fitted(self, kept: Pair) -> Pair | None:
        """Return what fits; None also if an encoder-decoder cannot write the answer whole."""
        targets = sum(kept[1].supervised)
        if self.maker.head == "sequence" and targets > self.maker.max_length:
            return None
        shorter = super().fitted(kept)
        if shorter:
            self._tally.supervised_cut += targets - sum(shorter[1].supervised)
        return shorter

    def again(self, kept: Pair, dialogue: Dialogue) -> Pair | None:
        """Return the same answers behind what is left of their row."""
        rendered, _ = kept
        alone = len(rendered.supervised) + len(rendered.further) <= 1
        try:
            text = self.maker.render(dialogue, alone)[-1]
        except BadRow:
            return None
        (encoded,) = self.maker.encoder.encode([text], self._prompts)
        return None if isinstance(encoded, BadRow) else (text, encoded)


def _questions(messages: Sequence[Message]) -> list[int]:
    """Where a chat may begin: at each turn of the user but the first and the very last one."""
    users = [n for n, message in enumerate(messages[:-1]) if message["role"] == "user"]
    return users[1:]


def _longest(dialogue: Dialogue) -> tuple[str, ...]:
    """The longest text before the answer."""
    texts = [each.text for each in dialogue.segments if not each.supervised]
    others = [each for each in dialogue.messages[:-1] if each["role"] != "assistant"]
    texts += [str(each.get("content") or "") for each in others]
    return (max(texts, key=len),) if texts else ()


def _shorter(dialogue: Dialogue, text: str, by: str) -> Dialogue | None:
    """The row with another text in the place of a document; None if it is not there as it is."""
    dialogue = replace(dialogue, cut_characters=0, cut_texts=True)
    for number, message in enumerate(dialogue.messages[:-1]):
        content = message.get("content")
        if isinstance(content, str) and text in content:
            turn = {**message, "content": content.replace(text, by, 1)}
            turns = (*dialogue.messages[:number], turn, *dialogue.messages[number + 1 :])
            return replace(dialogue, messages=turns)
    for number, segment in enumerate(dialogue.segments):
        if not segment.supervised and text in segment.text:
            part = replace(segment, text=segment.text.replace(text, by, 1))
            parts = (*dialogue.segments[:number], part, *dialogue.segments[number + 1 :])
            return replace(dialogue, segments=parts)
    return None


def _to_word(text: str, end: int) -> str:
    """The beginning of a text up to a place, or to the end of the word before."""
    start = text[:end]
    words, _, last = start.rpartition(" ")
    inside = end < len(text) and not text[end].isspace() and not start[-1:].isspace()
    return (words if inside and words and len(last) < _LONGEST_WORD else start).rstrip()


def documents(texts: Sequence[object]) -> Iterator[str]:
    """Yield the texts among the values of a row's document columns."""
    for text in texts:
        if isinstance(text, str) and text.strip():
            yield text.strip()
