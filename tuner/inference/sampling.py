"""Sampling: how the tokens of an answer are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen.

    Attributes:
        temperature: 0 takes the likeliest token each time; above, tokens are sampled.
        top_p: sample from the likeliest tokens that together have this probability, 1 from all.
        top_k: sample from this many of the likeliest tokens, 0 from all. If neither is given,
            the base's generation config decides, or else all tokens count.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None

    def arguments(self, own: Any) -> dict[str, Any]:
        """Return the arguments of transformers' `generate`.

        Args:
            own: the base's generation config.
        """
        if not self.temperature:
            # None leaves out what the base's own config would set for sampled tokens.
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        how: dict[str, Any] = {"do_sample": True, "temperature": self.temperature}
        if self.top_p is not None or self.top_k is not None:
            how |= {"top_p": 1.0 if self.top_p is None else self.top_p, "top_k": self.top_k or 0}
        elif own.top_k is None:
            # transformers would sample from 50.
            how["top_k"] = 0
        return how


GREEDY = Sampling()
