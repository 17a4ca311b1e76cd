"""What an encoder-decoder writes, as token ids: of the answer alone, since it never reads its own
text behind the prompt's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.rows.rendered import Rendered, part, prompt_of
from tuner.data.tokens.encode import Encoded, Encoder


class TargetEncoder:
    """Encodes prompts for the encoder, and answers as the tokenizer's target mode does.

    Args:
        tokenizer: of the encoder-decoder.
        encoder: of the same tokenizer; encodes texts without the tokens around them.
    """

    def __init__(self, tokenizer: Any, encoder: Encoder) -> None:
        self._encoder, self._eos = encoder, int(tokenizer.eos_token_id)
        # What the tokenizer puts around a target: a language, an end token.
        around = list(tokenizer(text_target="a")["input_ids"])
        plain = encoder.plain_ids("a")
        start = next(n for n in range(len(around)) if around[n : n + len(plain)] == plain)
        self._before, self._after = around[:start], around[start + len(plain) :]

    def encode(self, examples: Sequence[Rendered]) -> Iterator[Encoded | BadRow]:
        """Yield prompt and target of each example; one that cannot be encoded, its problem."""
        prompts = self._encoder.encode([prompt_of(example) for example in examples])
        targets = self._encoder.encode([_reference(example) for example in examples])
        for example, prompt, target in zip(examples, prompts, targets, strict=True):
            if isinstance(prompt, BadRow) or isinstance(target, BadRow):
                yield prompt if isinstance(prompt, BadRow) else target
                continue
            learned = self._target(example, target.ids)
            yield replace(
                prompt,
                ids=prompt.ids + learned,
                supervised=[False] * len(prompt.ids) + [True] * len(learned),
                prompt_ids=prompt.ids,
                foreign=prompt.foreign + target.foreign,
            )

    def _target(self, example: Rendered, ids: list[int]) -> list[int]:
        if not example.supervise_eos:
            return [*self._before, *ids]
        end = self._after if self._eos in self._after else [*self._after, self._eos]
        # The end token is in the text of the answer already.
        said = ids[:-1] if ids[-1:] == [self._eos] == end[:1] else ids
        return [*self._before, *said, *end]


def _reference(example: Rendered) -> Rendered:
    """Return the last answer alone, without the tokens that the tokenizer puts around it."""
    end = example.prompt_end + len(example.reference)
    return replace(part(example, example.prompt_end, end, append_eos=False), raw=False)
