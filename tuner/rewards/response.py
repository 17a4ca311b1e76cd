"""The input and output of rewards: a policy's response with its prompt, and its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Response:
    """One response of the policy.

    Attributes:
        row: id of the prompt's row, for messages.
        prompt: the last user turn.
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
    """The scores of some responses.

    Attributes:
        total: the weighted sum, one per response.
        parts: unweighted scores by name of the part, one per response.
    """

    total: list[float]
    parts: dict[str, list[float]]


# One score per response, in order.
Scorer: TypeAlias = Callable[[Sequence[Response]], list[float]]


def beginning(text: str, length: int = 60) -> str:
    """Return the start of a text, on one line and in quotes, for messages."""
    return repr(text if len(text) <= length else text[: length - 3] + "...")
