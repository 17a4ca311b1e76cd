"""The recipe's keys that choose rows, hold them out and fit them into `data.max_length`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tuner.schema import strict_yaml
from tuner.schema.fields import own_words

_SHARE = re.compile(r"(\d{1,2}(?:\.\d+)?) ?%")

Split = Annotated[
    Literal["prompt", "row"],
    Field(
        description="hold out by prompt, each label on both sides; row: by whole row, as earlier "
        "versions did"
    ),
]
Draw = Annotated[
    Literal["seed", "first"],
    Field(description="rows that max_rows keeps: drawn by run.seed, label by label; or the first"),
]
Disliked = Annotated[
    Literal["error", "drop", "learn"],
    Field(
        description="supervised rows whose answer is labelled bad (thumbs-down, label: false): "
        "stop, leave them out, or learn them too"
    ),
]
SpecialTokens = Annotated[
    Literal["auto", "literal", "error", "allow"],
    Field(
        description="special tokens in a row's text: literal keeps them plain text, error stops, "
        "allow makes tokens of them; auto: literal, and a stop token that an answer ends with is "
        "its end"
    ),
]
Long = Annotated[
    Literal["auto", "truncate", "split", "error"],
    Field(
        description="rows over max_length: cut, split (plain text), stop; auto: split plain "
        "text, cut the rest as data.cut says"
    ),
]
Cut = Annotated[
    Literal["auto", "document", "oldest_turns", "answer", "drop"],
    Field(
        description="what a row over max_length loses: the end of its document, its oldest turns, "
        "the end of its answer, or all; auto: never the answer"
    ),
]


def share_of(text: Any) -> float | None:
    """Return 0.99 of `99%`; None if the value is no percentage."""
    found = _SHARE.fullmatch(text) if isinstance(text, str) else None
    return float(found[1]) / 100 if found and float(found[1]) else None


def _length(value: Any) -> Any:
    if value in ("auto", "context") or share_of(value):
        return str(value)
    number = strict_yaml.number(value) if isinstance(value, str) else value
    whole = isinstance(number, int | float) and not isinstance(number, bool) and number % 1 == 0
    if number is None or not whole or number < 1:
        raise own_words(
            f"expected auto, context, a whole number from 1 or a share such as 99%, not '{value}'"
        )
    return int(number)


MaxLength = Annotated[
    Annotated[int, Field(ge=1)]
    | Literal["auto", "context"]
    | Annotated[str, Field(pattern=r"^[0-9]{1,2}(\.[0-9]+)? ?%$")],
    BeforeValidator(_length),
    Field(
        description="maximum tokens per example; auto: the longest row; 99%: cuts the longest "
        "hundredth; context: all that the base takes"
    ),
]
