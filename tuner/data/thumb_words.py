"""By which words a column says whether an answer is liked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Columns next to an answer that say whether it is liked; "label" only with these values, since a
# label may be positive without rating the answer.
PLAIN = frozenset(("true", "false", "1", "0"))
NAMES = frozenset(
    ("label", "kto_tag", "rating", "thumb", "thumbs", "vote", "feedback", "liked", "is_liked")
)
UP = frozenset(
    (
        "true",
        "1",
        "up",
        "thumbs_up",
        "thumbs up",
        "like",
        "liked",
        "good",
        "positive",
        "\U0001f44d",
        "赞",
        "好",
    )
)
DOWN = frozenset(
    (
        *("false", "0", "-1", "down", "thumbs_down", "thumbs down", "dislike", "disliked"),
        *("bad", "negative", "\U0001f44e", "踩", "差"),
    )
)


def are_thumbs(name: str, values: Iterable[Any]) -> bool:
    """Return whether a column is called like one of thumbs and holds nothing else."""
    return name.lower() in NAMES and {thumb(value) for value in values} <= _words(name)


def _words(name: str) -> frozenset[str]:
    return (PLAIN if name.lower() == "label" else UP | DOWN) | {""}


def thumb(value: Any) -> str:
    """Return a thumb as a word in small letters; empty if there is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip().lower()


def is_thumb(value: Any) -> bool:
    """Return whether a value says that something is liked, or that it is not."""
    return thumb(value) in UP | DOWN


def liked(value: Any) -> bool | None:
    """Return whether a value says that something is liked; None if it says neither."""
    word = thumb(value)
    return True if word in UP else False if word in DOWN else None
