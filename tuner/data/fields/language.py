"""The language that rows are written in, as far as a template's own words need it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

Language = Literal["en", "zh"]

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]+(?:['\u2019][A-Za-z]+)*")
# Letters of other scripts that are written in words.
_OTHER = re.compile(r"[\u0370-\u1fff\uac00-\ud7af]")
# Frequent in English, and not in its neighbours.
_ENGLISH = re.compile(
    r"\b(?:the|of|and|to|is|are|was|were|be|been|it|its|that|this|these|which|what|who|how|why|when"
    r"|where|with|for|from|not|have|has|had|you|your|they|their|he|she|his|her|there|would|should"
    r"|could|will|can|does|did|by|or|as|at|if|than|then|but|we|our)\b",
    re.IGNORECASE,
)
# An English text has about one such word in three, a text in another language hardly any.
_LEAST_SHARE = 0.05
# Fewer words say nothing about which of the languages in Latin letters it is.
_FEW_WORDS = 20
# Japanese has kana between its Chinese characters.
_KANA_SHARE = 0.1
_ENOUGH = 200_000


def language_of(values: Iterable[Any]) -> Language | None:
    """Return the language of texts by their contents; None if it is neither English nor Chinese.

    Args:
        values: texts, or lists and objects that hold some; everything else counts for nothing. The
            first 200,000 characters decide.
    """
    read: list[str] = []
    left = _ENOUGH
    for text in _texts(values):
        if left <= 0:
            break
        read.append(text[:left])
        left -= len(text)
    text = "\n".join(read)
    words = _WORD.findall(text)
    han, kana, other = (len(each.findall(text)) for each in (_HAN, _KANA, _OTHER))
    latin = sum(map(len, words))
    if han > len(words):
        return None if kana > han * _KANA_SHARE else "zh"
    if not words or max(other, kana) > latin:
        return None
    english = len(_ENGLISH.findall(text))
    return "en" if len(words) < _FEW_WORDS or english >= len(words) * _LEAST_SHARE else None


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)
