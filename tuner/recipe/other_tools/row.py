"""A row of the table of other tools' keys, and the ways in which most values are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Fate(Enum):
    """What becomes of a setting of another tool."""

    KEPT = "kept"
    # Nothing of it is needed: the trained model is the same.
    LEFT_OUT = "left out"
    # There is no such thing here, and the trained model will differ.
    LOST = "lost"
    # Without it the recipe would train something else.
    BLOCKS = "blocks"


@dataclass(frozen=True)
class Given:
    """A setting of another tool.

    Attributes:
        name: the key.
        value: as YAML's core schema reads it.
        others: all keys of the same mapping.
    """

    name: str
    value: Any
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Here:
    """What a setting comes to.

    Attributes:
        keys: of a recipe, as `section.key`, with their values.
        said: how the value converts, or why there is no such key.
        fate: whether it is kept.
    """

    keys: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""
    fate: Fate = Fate.KEPT


Take = Callable[[str, Given], Here]


@dataclass(frozen=True)
class Row:
    """Keys of other tools that mean the same.

    Attributes:
        names: of the keys, with spaces between.
        place: the recipe's key, as `section.key`; empty: there is none.
        take: reads the value.
    """

    names: str
    place: str
    take: Take


def left_out(said: str) -> Here:
    """Return that a setting is not needed, and why."""
    return Here({}, said, Fate.LEFT_OUT)


def lost(said: str) -> Here:
    """Return that the trained model will differ, and in what."""
    return Here({}, said, Fate.LOST)


def blocks(said: str) -> Here:
    """Return that there is no recipe for this, and what to do."""
    return Here({}, said, Fate.BLOCKS)


def flag(value: Any) -> bool | None:
    """Return the truth of a value as YAML 1.1 and 1.2 write it; None: it is neither."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return value if isinstance(value, bool) else words.get(str(value).lower())


def number(value: Any, usual: float) -> float:
    """Return a value as a finite number; what cannot be one is the usual one."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return usual
    return found if math.isfinite(found) else usual


def empty(value: Any) -> bool:
    """Return whether a value says nothing."""
    return value is None or value in ("", [], {}) or str(value).lower() in ("none", "null", "~")


def as_is(place: str, given: Given) -> Here:
    """Take the value under the recipe's key."""
    return Here({place: given.value})


def noted(said: str) -> Take:
    """Take the value as it is, with a remark."""
    return lambda place, given: Here({place: given.value}, said)


def if_true(value: Any = True, said: str = "") -> Take:
    """Set the recipe's key to a value where the other tool's is true."""

    def take(place: str, given: Given) -> Here:
        if flag(given.value) is False:
            return left_out("it is off here, too")
        return Here({place: value}, said)

    return take


def chosen(words: Mapping[str, Any], otherwise: str, fate: Fate = Fate.LOST) -> Take:
    """Set the recipe's key to what a word of the other tool means; `{value}` is the word."""

    def take(place: str, given: Given) -> Here:
        word = str(given.value).lower()
        if word not in words:
            return Here({}, otherwise.format(value=given.value), fate)
        meant = words[word]
        if isinstance(meant, Here):
            return meant
        return Here(meant if isinstance(meant, Mapping) else {place: meant})

    return take


def absent(said: str, fate: Fate = Fate.LOST, harmless: str = "") -> Take:
    """Answer that there is no such key; values among the harmless words need none."""
    words = {*harmless.split(), "false", "off", "none"}

    def take(place: str, given: Given) -> Here:
        none = str(given.value).lower() in words or flag(given.value) is False
        zero = isinstance(given.value, int | float) and given.value == 0
        return Here({}, said, Fate.LEFT_OUT if none or zero else fate)

    return take


def unneeded(said: str) -> Take:
    """Answer that there is no such key, and that the trained model is the same without."""
    return absent(said, Fate.LEFT_OUT)
