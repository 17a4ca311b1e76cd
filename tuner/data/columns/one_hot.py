"""Labels that are spread over columns, one for each label, of which every row sets one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tuner.data.columns import accounting
from tuner.data.columns.evidence import FEW, MOST, Evidence
from tuner.data.columns.template_match import NONE
from tuner.data.columns.ways import Alternative
from tuner.data.fields import joined
from tuner.data.templates.template import all_templates
from tuner.schema.suggest import listed


def group(evidence: Evidence) -> list[str]:
    """Return the columns of 0 and 1 of which nearly every row sets exactly one; empty if there are
    none, if no two of them are ever set, or if there are too few rows to see it."""
    rows, found = evidence.rows, flags(evidence)
    if len(rows) < FEW or len(found) < 2:
        return []
    counts = _counts(evidence, found)
    # A rare label may be set in later rows only.
    seen = sum(any(joined.is_set(row.get(name)) for row in rows) for name in found)
    return found if seen > 1 and counts.count(1) >= MOST * len(rows) else []


def flags(evidence: Evidence) -> list[str]:
    """Return the columns of 0 and 1 that not every row sets: what every row sets is no label of
    some."""
    return [
        name
        for name in evidence.columns
        if evidence.values(name)
        and {joined.is_set(row.get(name)) for row in evidence.rows} in ({True, False}, {False})
    ]


def with_several(evidence: Evidence, names: Sequence[str]) -> int:
    """Return how many rows set several of some columns of 0 and 1; 0 if nearly all set exactly one,
    and the others are mistakes."""
    if len(names) < 2 or group(evidence):
        return 0
    return sum(count > 1 for count in _counts(evidence, names))


def _counts(evidence: Evidence, names: Sequence[str]) -> list[int]:
    rows = evidence.rows
    return [sum(joined.is_set(row.get(name)) is True for name in names) for row in rows]


def several(evidence: Evidence) -> list[str]:
    """Return a line for an error about columns of 0 and 1 of which rows set several; none if they
    do not, or there are too few rows to see it."""
    found, count = flags(evidence), len(evidence.rows)
    rows = with_several(evidence, found) if count >= FEW else 0
    if not rows:
        return []
    return [
        f"  {rows} of {count} rows set several of {listed(found)}: each way that has one of them "
        "as its label learns that column alone"
    ]


def one_hot(evidence: Evidence) -> Alternative | None:
    """Return the way to classify texts by the one column that is set; None if there is none."""
    labels = group(evidence)
    left = [name for name in evidence.columns if name not in labels]
    task = [name for name in left if accounting.of_task(evidence, name)]
    texts = [name for name in task if evidence.holds(name, ("text",))]
    if not labels or not texts:
        return None
    template = next(each for each in all_templates() if each.name == "classification")
    text = joined.together(texts)
    columns = {} if text == "text" else {"text": text}
    gone = {name: NONE for name in task if name not in texts}
    columns |= {"label": joined.one_of(labels), **gone}
    called = f"{template.task or template.name} by the one column that is 1"
    return Alternative(template, columns, len(texts) + len(labels), called=called)


def without(ways: Sequence[Alternative], labels: Collection[str]) -> list[Alternative]:
    """Return the ways that read none of these columns."""
    read = [{way.columns.get(name, name) for name in way.template.columns.names} for way in ways]
    return [way for way, names in zip(ways, read, strict=True) if names.isdisjoint(labels)]
