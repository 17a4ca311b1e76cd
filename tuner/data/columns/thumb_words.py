"""By which words a column says whether an answer is liked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tuner.schema.suggest import plain

# Columns next to an answer that say whether it is liked, best first; labels only with plain values,
# since a label may be positive without rating the answer.
LABELS = ("label", "标签")
NAMES = (
    *("label", "kto tag", "rating", "thumb", "thumbs", "vote", "feedback", "liked", "is liked"),
    *("标签", "评价", "是否喜欢"),
)
_LABELS, _NAMES = frozenset(map(plain, LABELS)), frozenset(map(plain, NAMES))
# Those that earlier versions knew, with this spelling: runs that began by them go on so.
_EARLIER = frozenset(
    ("label", "kto_tag", "rating", "thumb", "thumbs", "vote", "feedback", "liked", "is_liked")
)
# Some in which "true" says the opposite.
OPPOSITE = (
    "is bad",
    "bad",
    "disliked",
    "is disliked",
    "thumbs down",
    "unhelpful",
    "差评",
    "不喜欢",
)
# All of those: columns in which "true" says that an answer is not liked.
_DISLIKED = re.compile(
    r"(is|was)?(bad|dislike|disliked|downvote|downvoted|thumbsdown|unhelpful|nothelpful|undesirable"
    r"|badanswer|badresponse)|(是否)?(差评|不喜欢|踩)"
)
# Further ones, where a recipe takes one for thumbs.
_WRONG = re.compile(
    r"(is|was|has)?(toxic|toxicity|harmful|unsafe|offensive|wrong|incorrect|errors?|spam|rejected"
    r"|invalid|flagged|hallucinat\w*|refused)|(是否)?(有害|违规|错误|拒绝|不当)"
)
PLAIN = frozenset(("true", "false", "1", "0"))
_ANSWERED = {"yes": "true", "no": "false", "是": "true", "否": "false"}
UP = frozenset(
    (
        *("true", "1", "up", "thumbs_up", "thumbs up", "like", "liked", "good", "positive"),
        *("helpful", "useful", "upvote", "upvoted", "accepted", "desirable", "satisfied"),
        *("\U0001f44d", "赞", "好", "点赞", "好评", "喜欢", "满意", "有用", "有帮助"),
    )
)
DOWN = frozenset(
    (
        *("false", "0", "-1", "down", "thumbs_down", "thumbs down", "dislike", "disliked"),
        *("bad", "negative", "unhelpful", "not helpful", "useless", "downvote", "downvoted"),
        *("rejected", "undesirable", "unsatisfied", "dissatisfied"),
        *("\U0001f44e", "踩", "差", "点踩", "差评", "不喜欢", "不满意", "没用", "没有用", "没帮助"),
    )
)


def reversed_by(name: str) -> bool:
    """Return whether "true" in a column of this name says that an answer is not liked."""
    word = plain(name)
    return any(pattern.fullmatch(word) for pattern in (_DISLIKED, _WRONG))


def are_thumbs(name: str, values: Iterable[Any], earlier: bool = False) -> bool:
    """Return whether a column is called like one of thumbs and holds nothing else.

    Args:
        name: of the column.
        values: of it.
        earlier: whether only the names count that earlier versions knew.
    """
    words = {thumb(value) for value in values} - {""}
    if earlier and name.lower() not in _EARLIER:
        return False
    if plain(name) in _LABELS:
        return words <= PLAIN
    if plain(name) in _NAMES:
        return words <= UP | DOWN | {*_ANSWERED}
    return bool(_DISLIKED.fullmatch(plain(name))) and words <= PLAIN | {*_ANSWERED}


def thumb(value: Any) -> str:
    """Return a thumb as a word in small letters; empty if there is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip().lower()


def is_thumb(value: Any) -> bool:
    """Return whether a value says that something is liked, or that it is not."""
    return liked(value) is not None


def liked(value: Any, name: str = "") -> bool | None:
    """Return whether a value says that something is liked; None if it says neither.

    Args:
        value: true or false, or a word.
        name: of its column; in one like `is_bad`, true says no.
    """
    word = thumb(value)
    word = _ANSWERED.get(word, word)
    good = True if word in UP else False if word in DOWN else None
    return not good if good is not None and word in PLAIN and reversed_by(name) else good
