"""Which columns may be the labels of texts, and what belongs to the text that is classified."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.data.columns import accounting
from tuner.data.columns.evidence import FEW, Evidence
from tuner.data.fields import joined
from tuner.schema.suggest import plain

# Columns that say why, or say the label again: a model that reads them need not read the text.
_TELLING = (
    *("label", "rationale", "reason", "explanation", "output", "response", "answer", "target"),
    *("解析", "解答", "解释", "分析", "理由", "答案", "回答"),
)


def late(evidence: Evidence, name: str, labels: bool) -> tuple[int, bool, int]:
    """Return what puts columns that may be labels behind texts.

    Where a template has labels, of several first what is true or false, then the last one, and last
    what never changes.
    """
    values = evidence.values(name)
    if not (evidence.repeats(name) and len(values) >= FEW):
        return (0, False, 0)
    constant = len(set(map(str, values))) == 1
    place = -evidence.columns.index(name)
    return (
        (1 + constant, not evidence.holds(name, ("boolean",)), place) if labels else (1, False, 0)
    )


def one_is_clear(evidence: Evidence, names: Sequence[str]) -> bool:
    """Return whether one of these columns must be the label: the only one that repeats, or of
    several the one that is true or false."""
    classes = [late(evidence, name, True)[:2] for name in names]
    return 1 in (sum(each[0] == 1 for each in classes), classes.count((1, False)))


def join(evidence: Evidence, task: Sequence[str], used: dict[str, str]) -> None:
    """Give what is left of the task to the text that is classified: short parts first, since a row
    that is too long loses its end. No list, no constant, nor what gives the label away."""
    text, label = used["text"], used["label"]
    more = [
        name
        for name in task
        if name not in used.values()
        and accounting.of_task(evidence, name)
        and len(evidence.texts(name)) == len(evidence.values(name))
        and not evidence.holds(name, ("json",))
        and not any(word in plain(name) for word in _TELLING)
        and len(set(evidence.texts(name))) > 1
        and not evidence.decides(name, label)
    ]
    if more and text in evidence.columns:
        names = [name for name in evidence.columns if name in (text, *more)]
        used["text"] = joined.together(sorted(names, key=lambda n: not evidence.brief(n)))
