"""Generated text, received token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.generation.stopping_criteria import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

Stopped = Literal["eos", "length", "words", "halted"]
# Tokens of the prompt before a continuation: some tokenizers drop the space a text begins with.
_TAIL = 8


@dataclass(frozen=True)
class Answer:
    """What the model wrote: its text, why it stopped, its tokens without the stop token."""

    text: str
    stopped: Stopped
    tokens: int


@dataclass(frozen=True)
class Ending:
    """What ends an answer besides a stop token and its length.

    Attributes:
        words: texts that end it; the answer goes up to the first of them.
        halted: called after each token; true gives up.
        strip: whether to strip spaces around the answer; false: the exact continuation.
    """

    words: Sequence[str] = ()
    halted: Callable[[], bool] = lambda: False
    strip: bool = True


class Listener(BaseStreamer):
    """Turns the tokens of a generation into text as they come.

    Args:
        tokenizer: of the prompt.
        stops: token ids that end the answer.
        show: called with the text piece by piece.
        ending: what else ends it.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[int],
        show: Callable[[str], None],
        ending: Ending | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._show = show
        self._ending = ending or Ending()
        self._prompt = True
        self._tail: list[int] = []
        self._ids: list[int] = []
        self._shown = ""
        self._stopped: Stopped = "length"

    def __deepcopy__(self, memo: Any) -> Listener:
        # peft copies the arguments of an encoder-decoder with virtual tokens.
        return self

    @property
    def ended(self) -> bool:
        """Return whether no further token is wanted."""
        return self._stopped != "length"

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt first, then each token."""
        if self._prompt:
            self._prompt = False
            self._tail = value.flatten().tolist()[-_TAIL:]
            return
        for token in value.flatten().tolist():
            if token in self._stops:
                self._stopped = "eos"
            if not self.ended:
                self._ids.append(token)
        text = self._decoded()
        if not self.ended and self._end_of(text) is not None:
            self._stopped = "words"
        if not self.ended and self._ending.halted():
            self._stopped = "halted"
        self._tell(self._final(text) if self.ended else self._certain(text))

    def end(self) -> None:
        """Show what was held back."""
        self._tell(self._final(self._decoded()))

    def answer(self) -> Answer:
        """Return the answer so far."""
        return Answer(self._final(self._decoded()), self._stopped, len(self._ids))

    def _decoded(self) -> str:
        def decode(ids: list[int]) -> str:
            return str(self._tokenizer.decode(ids, skip_special_tokens=False))

        if self._ending.strip:
            return decode(self._ids)
        before, whole = decode(self._tail), decode(self._tail + self._ids)
        return whole[len(before) :] if whole.startswith(before) else decode(self._ids)

    def _end_of(self, text: str) -> int | None:
        """Return where the first of the words that end it begins."""
        places = [place for word in self._ending.words if (place := text.find(word)) >= 0]
        return min(places, default=None)

    def _final(self, text: str) -> str:
        text = text[: self._end_of(text)]
        return text.strip() if self._ending.strip else text

    def _certain(self, text: str) -> str:
        """Return the part that can no longer change: the last character may be half of one, the
        last spaces the end of the answer, the last word the beginning of one that ends it."""
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        held = 0
        for word in self._ending.words:
            longest = min(len(word) - 1, len(text))
            parts = (n for n in range(longest, 0, -1) if text.endswith(word[:n]))
            held = max(held, next(parts, 0))
        text = text[: len(text) - held]
        return text.strip() if self._ending.strip else text

    def _tell(self, text: str) -> None:
        if len(text) > len(self._shown) and text.startswith(self._shown):
            self._show(text[len(self._shown) :])
            self._shown = text


class Ended(StoppingCriteria):
    """Stops transformers' generation when the listener has enough."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return (rows,) whether each row has ended."""
        return torch.full((len(input_ids),), self._listener.ended, device=input_ids.device)
