"""Which columns may be the labels of texts, and what belongs to the text that is classified."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from tuner.data.columns import accounting
from tuner.data.columns.evidence import FEW, MOST, Evidence
from tuner.data.columns.template_match import NONE
from tuner.data.columns.ways import Alternative, flow
from tuner.data.fields import joined
from tuner.data.fields.several import mostly_several
from tuner.schema.suggest import plain

_INTEGER = re.compile(r"[+-]?[0-9]+")
# More numbers than these are not listed.
_MOST_NUMBERS = 20
# Columns that say why, or say the label again: a model that reads them need not read the text.
_TELLING = (
    *("label", "rationale", "reason", "explanation", "output", "response", "answer", "target"),
    *("解析", "解答", "解释", "分析", "理由", "答案", "回答"),
)
# What a column of classes is called, and one of how many liked or saw something.
_LABELS = re.compile(
    "label|class|categor|sentiment|emotion|intent|star|rating|risk|priority|severity|tone"
    "|kategorie|klasse|标签|类别|分类|情感|意图|星级|评级|风险"
)
_DATES = frozenset(("year", "month", "day", "date", "time", "年", "月", "日期", "年份"))
_COUNTS = re.compile(
    "useful|funny|cool|helpful|likes|votes|views|shares|retweet|replies|followers|点赞|转发|浏览|回复数"
)


def late(evidence: Evidence, name: str, labels: bool) -> tuple[int, int, int]:
    """Return what puts columns that may be labels behind texts.

    Where a template has labels, of several first what is called like one, then what is true or
    false, what sorts texts, the last one, what counts something, and last what never changes.
    """
    values = evidence.values(name)
    if not (evidence.repeats(name) and len(values) >= FEW):
        return (0, 0, 0)
    if not labels:
        return (1, 0, 0)
    constant = len(set(map(str, values))) == 1
    called = 2 if accounting.sorts_texts(evidence, name) else 3
    rank = 1 if evidence.holds(name, ("boolean",)) else called
    rank = 0 if _LABELS.search(plain(name)) else 4 if _COUNTS.search(plain(name)) else rank
    # Of columns of 0 and 1, the first is often the main one; other labels are often the last.
    flags = all(joined.is_set(value) is not None for value in values)
    place = evidence.columns.index(name)
    return (1 + constant, rank, place if flags else -place)


def tells(evidence: Evidence, way: Alternative) -> bool:
    """Return whether a way's labels differ, and repeat as far as there are enough rows to see it,
    and are all that the rows have; any do of a way without labels."""
    name = way.template.label
    if name is None or way.template.name != "classification":
        return True
    column = way.columns.get(name, name)
    whole = evidence.values(column.removesuffix(".0")) if column.endswith(".0") else []
    if any(isinstance(value, list) and len(value) > 1 for value in whole):
        # The other labels would be dropped unseen.
        return False
    values = [str(value).strip() for value in evidence.values(column)]
    return len(values) < FEW or (1 < len({*values}) < len(values) and not mostly_several(values))


def one_is_clear(evidence: Evidence, names: Sequence[str]) -> bool:
    """Return whether one of these columns must be the label: the only one that repeats, of several
    the one that is true or false, or any where all others but one repeat: each is offered."""
    classes = [late(evidence, name, True)[:2] for name in names]
    labels = sum(each[0] == 1 for each in classes)
    return 1 in (labels, classes.count((1, 0))) or (
        labels > 1 and len(_texts(evidence, names)) == 1
    )


def _texts(evidence: Evidence, names: Sequence[str]) -> list[str]:
    """The columns that are no labels, and have a value in nearly every row."""
    filled = [n for n in names if len(evidence.values(n)) >= MOST * len(evidence.rows)]
    return [name for name in filled if not late(evidence, name, True)[0]]


def free(evidence: Evidence, task: Sequence[str], heads: Collection[str]) -> list[str]:
    """Return the columns that may be the text or the label: those of the task and, next to a lone
    text, what repeats, whatever it is called; where there is a label, only what is called like one.

    Args:
        evidence: what the columns hold.
        task: the columns that look like part of the task.
        heads: plain names of what heads a text, and is none of its own.
    """
    texts = [name for name in _texts(evidence, task) if not accounting.remarks(name)]
    if texts:
        task = [name for name in task if not accounting.remarks(name)]
    labels = [name for name in task if late(evidence, name, True)[0]]
    if sum(plain(name) not in heads for name in _texts(evidence, task)) > 1:
        return [*task]
    classes = [n for n in evidence.columns if evidence.values(n) and evidence.repeats(n)]
    sorts = [name for name in classes if accounting.sorts_texts(evidence, name)]
    classes = sorts if labels or sorts else classes
    return [
        name
        for name in evidence.columns
        if name in task
        or (
            name in classes
            and not accounting.names_people(name)
            and plain(name) not in _DATES
            and not (texts and accounting.remarks(name))
        )
    ]


def others(evidence: Evidence, names: Sequence[str], label: str) -> list[str]:
    """Return the columns that may as well be the label as this one; none next to one whose name
    says that it is."""
    if accounting.known(label) or not late(evidence, label, True)[0]:
        return []
    found = [n for n in names if n != label and late(evidence, n, True)[0] == 1]
    return sorted(found, key=lambda name: late(evidence, name, True))


def dropped(way: Alternative, label: str, names: Collection[str]) -> bool:
    """Return whether a way takes one of these columns for the answer, and does not read the
    label."""
    read = [way.columns.get(name, name) for name in way.template.columns.names]
    answers = {way.columns.get(name, name) for name in way.template.answer_columns}
    return label not in read and not answers.isdisjoint(names)


def as_other(way: Alternative, label: str) -> Alternative:
    """Return a way to classify by another column than this label; it says so, and what becomes of
    this one."""
    read = {part for file in way.columns.values() for part in joined.parts(file) or [file]}
    columns = {**way.columns, **({} if label in read else {label: NONE})}
    called = f"{way.task} by '{way.columns['label']}'"
    return replace(way, columns=columns, called=called)


def numbered(ways: Sequence[Alternative], evidence: Evidence) -> list[str]:
    """Return lines for an error, where the labels of the first way are numbers: a model that writes
    them needs their names."""
    first = ways[0] if ways and ways[0].template.label else None
    column = first.columns.get(first.template.label or "", "") if first else ""
    return number_lines(column, {str(value).strip() for value in evidence.values(column)})


def number_lines(column: str, texts: Collection[str], way: str = "the first of these") -> list[str]:
    """Return lines for an error about a column whose labels are numbers; none if they are not.

    Args:
        column: of the labels.
        texts: the labels.
        way: which of the error's ways reads them.
    """
    if not texts or len(texts) > _MOST_NUMBERS or not all(map(_INTEGER.fullmatch, texts)):
        return []
    labels = sorted(texts, key=int)
    named = labels == ["0", "1"] and column.isalpha() and not accounting.known(column)
    words = [f"not {column}", column] if named else ["NAME"] * len(labels)
    pairs = zip(labels, words, strict=True)
    names = ", ".join(f"{flow(label)}: {flow(word)}" for label, word in pairs)
    return [
        f"  the labels in '{column}' are numbers; for {way}, add to data:",
        f"    label_names: {{{names}}}, to learn words; or",
        f"    labels: [{', '.join(map(flow, labels))}], to learn the numbers",
    ]


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
        # The coarse class of a fine one would give it away, nearly.
        and not (evidence.repeats(name) and evidence.decides(label, name))
        and not accounting.remarks(name)
    ]
    if more and text in evidence.columns:
        names = [name for name in evidence.columns if name in (text, *more)]
        used["text"] = joined.together(sorted(names, key=lambda n: not evidence.brief(n)))
