"""What a model writes, heard token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class Answer:
    """What the model wrote: its text, why it stopped, its tokens without the stop token."""

    text: str
    stopped: Literal["eos", "length"]
    tokens: int


class Listener(BaseStreamer):
    """Turns the tokens of a generation into text as they come."""

    def __init__(self, tokenizer: Any, stops: Sequence[int], show: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._show = show
        self._prompt = True
        self._ids: list[int] = []
        self._shown = ""
        self._stopped = False

    def __deepcopy__(self, memo: Any) -> Listener:
        # peft copies the arguments of an encoder-decoder with virtual tokens.
        return self

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt first, then each token."""
        if self._prompt:
            self._prompt = False
            return
        for token in value.flatten().tolist():
            self._stopped = self._stopped or token in self._stops
            if not self._stopped:
                self._ids.append(token)
        # The last character may be half of one, the last spaces the end of the answer.
        self._tell(self._text().rstrip("\N{REPLACEMENT CHARACTER}").rstrip())

    def end(self) -> None:
        """Show what was held back."""
        self._tell(self._text())

    def answer(self) -> Answer:
        """What was heard."""
        stopped: Literal["eos", "length"] = "eos" if self._stopped else "length"
        return Answer(self._text(), stopped, len(self._ids))

    def _text(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=False)).strip()

    def _tell(self, text: str) -> None:
        if len(text) > len(self._shown) and text.startswith(self._shown):
            self._show(text[len(self._shown) :])
            self._shown = text
