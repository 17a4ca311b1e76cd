"""What columns of preference data may be that no format knows: by words in their names, and by what
they hold. It is only offered, never taken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

from tuner.data.columns import accounting, winners
from tuner.data.columns.evidence import Evidence
from tuner.data.columns.preference_names import NUMBERED
from tuner.data.columns.thumb_words import NAMES, liked, thumb
from tuner.errors import DataError
from tuner.schema.suggest import plain

_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W_a-zA-Z0-9]")
_GOOD = frozenset(
    (
        *("chosen", "preferred", "accepted", "better", "best", "good", "winning", "winner", "win"),
        *("positive", "pos", "selected", "liked", "好", "优", "佳", "采", "赢", "胜"),
    )
)
_BAD = frozenset(
    (
        *("rejected", "dispreferred", "unpreferred", "worse", "worst", "bad", "poor", "losing"),
        *("loser", "lose", "negative", "neg", "disliked", "差", "坏", "劣", "拒", "败"),
    )
)
_NOT = frozenset(("not", "non", "un", "不", "未", "非"))
_ASKS = (
    *("question", "prompt", "query", "instruction", "problem", "request", "user", "问", "题"),
    *("指令", "提示", "输入", "用户"),
)
_SAYS = (
    *("answer", "response", "reply", "completion", "output", "bot", "assistant", "model", "答"),
    *("回复", "输出", "响应", "模型"),
)
_RATES = ("feedback", "rating", "vote", "like", "thumb", "satisf", "评价", "反馈", "满意", "赞")
# Words that say of much else than of answers that they are liked.
_ANY = frozenset(("true", "false", "yes", "no", "0", "1", "-1", "是", "否"))
_NAMES = frozenset(map(plain, NAMES))


def guess(evidence: Evidence) -> dict[str, str]:
    """Return which columns may be which of a format of preference data; empty if nothing shows.

    Args:
        evidence: what the columns hold.
    """
    texts = [
        name
        for name in evidence.columns
        if evidence.values(name)
        and accounting.of_task(evidence, name)
        and evidence.holds(name, ("text", "turns"))
        and not all(liked(value) is not None for value in evidence.values(name))
    ]
    for find in (_sides, _thumbs, _numbered):
        if (found := find(evidence, texts)) is not None:
            return found
    return {}


def _sides(evidence: Evidence, texts: Sequence[str]) -> dict[str, str] | None:
    """A better and a worse answer."""
    better = [name for name in texts if _opinion(name) is True]
    worse = [name for name in texts if _opinion(name) is False]
    if not len(better) == len(worse) == 1:
        return None
    return _with_prompt(evidence, texts, {"chosen": better[0], "rejected": worse[0]})


def _thumbs(evidence: Evidence, texts: Sequence[str]) -> dict[str, str] | None:
    """Answers, and a column that says of each whether it is liked."""
    labels = [name for name in evidence.columns if _rates(evidence, name)]
    if len(labels) != 1:
        return None
    says = [name for name in texts if _called(name, _SAYS) and not _called(name, _ASKS)]
    asks = [name for name in texts if _called(name, _ASKS)]
    says = says or [name for name in texts if name not in asks] * (len(texts) == 2)
    if len(says) != 1:
        return None
    found = _with_prompt(evidence, texts, {"completion": says[0], "label": labels[0]})
    return found if found and "prompt" in found else None


def _numbered(evidence: Evidence, texts: Sequence[str]) -> dict[str, str] | None:
    """Two answers that a part of their names tells apart, and a column that names the better."""
    for one, other in combinations(texts, 2):
        pair = _apart(one, other)
        if pair is None:
            continue
        for winner in evidence.columns:
            values = evidence.values(winner)
            if winner in (one, other) or not values or not evidence.repeats(winner):
                continue
            try:
                words = winners.meanings(values, pair, (one, other), winner, [])
                named = {winners.better(value, words) for value in values}
            except (DataError, ValueError):
                continue
            if {0, 1} <= named:
                sides = {f"answer_{pair[0]}": one, f"answer_{pair[1]}": other, "winner": winner}
                return _with_prompt(evidence, [n for n in texts if n != winner], sides)
    return None


def _with_prompt(
    evidence: Evidence, texts: Sequence[str], found: dict[str, str]
) -> dict[str, str] | None:
    """The columns with that of the prompt; None if it cannot be seen. Whole conversations need
    none."""
    free = [name for name in texts if name not in found.values()]
    asks = [name for name in free if _called(name, _ASKS)] or free
    if len(asks) == 1:
        return {"prompt": asks[0], **found}
    whole = all(evidence.holds(name, ("turns",)) for name in found.values())
    return found if whole and not free else None


def _rates(evidence: Evidence, name: str) -> bool:
    """Whether a column holds thumbs of both kinds, by their words or by its name."""
    values = evidence.values(name)
    if {liked(value, name) for value in values} != {True, False}:
        return False
    named = plain(name) in _NAMES or _called(name, _RATES)
    return named or {thumb(value) for value in values}.isdisjoint(_ANY)


def _called(name: str, words: Sequence[str]) -> bool:
    return any(word in plain(name) for word in words)


def _parts(name: str) -> list[str]:
    return [part.casefold() for part in _PARTS.findall(name)]


def _opinion(name: str) -> bool | None:
    """Whether a column is called like a better answer, or like a worse one; None: like neither."""
    parts = _parts(name)
    good, bad = not _GOOD.isdisjoint(parts), not _BAD.isdisjoint(parts)
    if good == bad:
        return None
    return good == _NOT.isdisjoint(parts)


def _apart(one: str, other: str) -> tuple[str, str] | None:
    """The pair of `NUMBERED` by one part of which two names differ; None if they do not."""
    first, second = _parts(one), _parts(other)
    if len(first) == len(second):
        differ = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
        for pair, ends in NUMBERED.items():
            if len(differ) == 1 and differ[0] in ends:
                return pair
    return None
