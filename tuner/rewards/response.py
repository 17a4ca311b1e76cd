"""What a reward judges, a response of the policy with the prompt it answers, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Response:
    """One response of the policy.

    Attributes:
        row: id of the prompt's row, for messages.
        prompt: the last turn of the user.
        text: the response, without the stop token.
        reference: the row's own answer; "" where it has none.
        num_tokens: length of the response, without the stop token.
        ended: whether the policy wrote a stop token.
        prompt_ids: the tokens that the policy continued.
        response_ids: its tokens; the last is the stop token where it `ended`.
    """

    row: str
    prompt: str
    text: str
    reference: str
    num_tokens: int
    ended: bool
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


@dataclass(frozen=True)
class Scores:
    """What responses are worth.

    Attributes:
        total: the weighted sum, one a response.
        parts: by the part's name, its scores before the weight, one a response.
    """

    total: list[float]
    parts: dict[str, list[float]]


# One score a response, in their order.
Scorer: TypeAlias = Callable[[Sequence[Response]], list[float]]


def beginning(text: str, length: int = 60) -> str:
    """The start of a text on one line and in quotes, for messages."""
    return repr(text if len(text) <= length else text[: length - 3] + "...")
