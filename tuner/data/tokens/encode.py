"""Rendered texts to token ids, with the loss mask taken from character offsets."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from tokenizers import Encoding, Tokenizer

from tuner.data.bad_rows import BadRow
from tuner.data.rows.rendered import Rendered, Span
from tuner.data.tokens.control_tokens import ControlTokens

CHUNK = 256
Policy = Literal["auto", "literal", "error", "allow"]


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example before truncation.

    Args:
        ids: all of them.
        supervised: token i is a target of the loss where True.
        prompt_ids: what generation starts from.
        foreign: special tokens in the row's text.
        opening: how many of `ids` the tokenizer puts before every plain text, usually BOS.
        inside: from an encoder with `borders`, the tokens that begin inside a character.
        apart: the prompt of an answer before the last one has other tokens when it is sent.
        weights: of the tokens in the loss; empty: 1 each.
        offsets: of the tokens in the text, if the encoder keeps them.
    """

    ids: list[int]
    supervised: list[bool]
    prompt_ids: list[int]
    foreign: int
    opening: int = 0
    inside: frozenset[int] = frozenset()
    apart: bool = False
    weights: tuple[float, ...] = ()
    offsets: tuple[Span, ...] = ()


class Encoder:
    """Encodes rendered examples.

    Args:
        tokenizer: a fast one.
        policy: what control tokens in row text become.
        chat_template: its Jinja text; None for plain text.
        borders: note which tokens begin inside a character.

    Attributes:
        keep_offsets: keep where each token is in the text, to show it.
    """

    keep_offsets = False

    def __init__(
        self, tokenizer: Any, policy: Policy, chat_template: str | None, borders: bool = False
    ) -> None:
        self._borders = borders
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = False
        self._policy = policy
        self._eos = int(tokenizer.eos_token_id)
        self._prefix = _prefix(self._backend)
        self._control = ControlTokens(tokenizer, chat_template)
        added = tokenizer.added_tokens_decoder
        self._added = frozenset(added)
        # Tokens that take the white space next to them along: in Phi-3's, that of an answer.
        self._greedy = {n: str(t.content) for n, t in added.items() if t.lstrip or t.rstrip}
        # Tokens of a prompt's end, by the tokenizer and its text: nearly always the same ones.
        self._ends: dict[tuple[int, str], Encoding] = {}

    @property
    def control_words(self) -> list[str]:
        """The control tokens, which are kept literal in the text of rows."""
        return self._control.words

    def offsets(self, text: str) -> list[Span]:
        """Return where the tokens of a plain text are in it."""
        return list(self._backend.encode(text, add_special_tokens=False).offsets)

    def plain_ids(self, text: str) -> list[int]:
        """Return the tokens of a text, without those that the tokenizer puts around one."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode(self, examples: Sequence[Rendered], prompts: bool = False) -> list[Encoded | BadRow]:
        """Encode examples; a row that cannot be encoded safely yields its problem."""
        results: list[Encoded | BadRow] = []
        for start in range(0, len(examples), CHUNK):
            results += self._chunk(examples[start : start + CHUNK], prompts)
        return results

    def _chunk(self, examples: Sequence[Rendered], prompts: bool) -> list[Encoded | BadRow]:
        foreign: list[int | BadRow] = [self._foreign(example) for example in examples]
        plain = [example.text for example, n in zip(examples, foreign, strict=True) if n == 0]
        encodings = iter(self._backend.encode_batch(plain, add_special_tokens=False))
        results: list[Encoded | BadRow] = []
        for example, count in zip(examples, foreign, strict=True):
            if isinstance(count, BadRow):
                results.append(count)
            elif count == 0:
                results.append(self._encoded(example, next(encodings), prompts, 0))
            else:
                results.append(self._literal(example, prompts, count))
        return results

    def _foreign(self, example: Rendered) -> int | BadRow:
        if self._policy == "allow":
            return 0
        try:
            count = self._control.foreign(example)
        except BadRow as problem:
            return problem
        if count and self._policy == "error":
            return BadRow("the text contains special tokens")
        return count

    def _literal(self, example: Rendered, prompts: bool, count: int) -> Encoded | BadRow:
        try:
            text = self._control.literal(example)
        except BadRow as problem:
            return problem
        encoding = self._control.private.encode(text, add_special_tokens=False)
        return self._encoded(example, encoding, prompts, count, text)

    def _encoded(
        self, example: Rendered, encoding: Encoding, prompts: bool, foreign: int, text: str = ""
    ) -> Encoded:
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        source = text or example.text
        if self._greedy:
            offsets = [
                self._own(token, span, source) for token, span in zip(ids, offsets, strict=True)
            ]
        backend = self._control.private if foreign else self._backend
        apart = False
        if example.dialogue.messages and example.prompt_end:
            ids, offsets = self._as_sent(ids, offsets, source, example.prompt_end, backend)
            apart = any(
                self._as_sent(ids, offsets, source, start, backend)[0] != ids
                for start, end in example.supervised
                if end <= example.prompt_end
            )
        supervised = [False] * len(ids)
        for span in (*example.supervised, *example.further):
            first, end = tokens_of(offsets, span)
            supervised[first:end] = [True] * (end - first)
        weights = [1.0] * len(ids) if example.fractions else []
        for span, weight in example.fractions:
            first, end = tokens_of(offsets, span)
            weights[first:end] = [weight] * (end - first)
        prompt = self._prompt(example, ids, offsets, source, backend) if prompts else []
        count = len(self._prefix) if example.raw else 0
        added = count if ids[:count] != self._prefix[:count] else 0
        if added:
            ids, supervised = self._prefix + ids, [False] * count + supervised
            weights = [1.0] * count + weights if weights else []
        if prompt[:count] != self._prefix[:count]:
            prompt = self._prefix + prompt
        if example.append_eos and ids[-1:] != [self._eos]:
            ids, supervised = [*ids, self._eos], [*supervised, example.supervise_eos]
            weights += weights[-1:]
        supervised[:1] = [False] * len(supervised[:1])
        inside = _inside(offsets, added) if self._borders else frozenset[int]()
        kept: list[Span] = []
        if self.keep_offsets:
            end = len(source)
            kept = [(0, 0)] * added + offsets
            kept += [(end, end)] * (len(ids) - len(kept))
        return Encoded(
            *(ids, supervised, prompt, foreign, count, inside, apart),
            weights=tuple(weights),
            offsets=tuple(kept),
        )

    def _own(self, token: int, span: Span, text: str) -> Span:
        """Return the span of a token in `text` without the white space that it takes along."""
        word = self._greedy.get(token, "")
        start = text.find(word, *span) if word else -1
        return (start, start + len(word)) if start >= 0 else span

    def _as_sent(
        self, ids: list[int], offsets: list[Span], text: str, border: int, backend: Tokenizer
    ) -> tuple[list[int], list[Span]]:
        """Tokens and offsets with those of the prompt as they are when it is sent, without answer.

        Where a text goes on, its last line breaks may be other tokens than at its end. Added
        tokens cut a text: only what comes after the last of them can differ.
        """
        first, _ = tokens_of(offsets, (border, border + 1))
        cut = next((n for n in range(first - 1, -1, -1) if ids[n] in self._added), 0)
        start = offsets[cut][0] if first else 0
        # With that token: some tokenizers put a space before the very beginning of a text.
        key = id(backend), text[start:border]
        if key not in self._ends:
            if len(self._ends) >= CHUNK:
                self._ends.clear()
            self._ends[key] = backend.encode(key[1], add_special_tokens=False)
        end = self._ends[key]
        whole = first == 0 or offsets[first - 1][1] <= border
        if whole and list(end.ids) == ids[cut:first]:
            return ids, offsets
        rest = backend.encode(text[border:], add_special_tokens=False)
        new = [*ids[:cut], *end.ids, *rest.ids]
        if backend.decode(new, skip_special_tokens=False) != backend.decode(
            ids, skip_special_tokens=False
        ):
            return ids, offsets
        moved = [(a + start, b + start) for a, b in end.offsets]
        return new, [*offsets[:cut], *moved, *((a + border, b + border) for a, b in rest.offsets)]

    def _prompt(
        self,
        example: Rendered,
        ids: list[int],
        offsets: Sequence[Span],
        source: str,
        backend: Tokenizer,
    ) -> list[int]:
        """Ids before the last answer; on a token that spans the border, those of the text alone."""
        first, _ = tokens_of(offsets, (example.prompt_end, example.prompt_end + 1))
        start = offsets[first - 1][1] if first else 0
        if source[start : example.prompt_end].strip():
            alone = backend.encode(source[: example.prompt_end], add_special_tokens=False)
            return list(alone.ids)
        return ids[:first]


def tokens_of(offsets: Sequence[Span], span: Span) -> tuple[int, int]:
    """Return the tokens (first, end) that overlap a span of characters.

    Tokens tile the text: where a tokenizer trims spaces off its offsets, a token reaches back to
    the end of the one before. Several tokens may share one character.
    """
    start, stop = span
    if stop <= start:
        return 0, 0
    first = bisect_right(offsets, start, key=_end)
    end = bisect_left(offsets, stop, lo=first, key=_end)
    if end == len(offsets):
        return first, end
    end += 1
    while end < len(offsets) and min(offsets[end][0], offsets[end - 1][1]) < stop:
        end += 1
    return first, end


def _inside(offsets: Sequence[Span], before: int) -> frozenset[int]:
    """The tokens that share a character with the one before, after `before` others."""
    return frozenset(
        before + place
        for place, (one, other) in enumerate(pairwise(offsets), 1)
        if other[0] < one[1]
    )


def _end(offset: Span) -> int:
    return offset[1]


def closing(tokenizer: Any) -> list[int]:
    """Return the special tokens that the tokenizer puts after a plain text: [SEP], </s>."""
    ids, special = list(tokenizer("a")["input_ids"]), set(tokenizer.all_special_ids)
    count = 0
    # At least one token is the text itself.
    while count + 1 < len(ids) and ids[-1 - count] in special:
        count += 1
    return ids[len(ids) - count :]


def _prefix(backend: Tokenizer) -> list[int]:
    """The tokens that the tokenizer puts before a plain text by itself, usually BOS."""
    encoding = backend.encode("a")
    count = 0
    for special in encoding.special_tokens_mask:
        if not special:
            break
        count += 1
    return list(encoding.ids[:count])


def unread(example: Rendered, encoded: Encoded) -> int:
    """Estimate the tokens of text that was cut while reading; supervised, if it is an answer's."""
    characters = example.dialogue.cut_characters
    return round(characters * len(encoded.ids) / max(1, len(example.text)))
