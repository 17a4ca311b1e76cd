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
    rows, flags = evidence.rows, _flags(evidence)
    if len(rows) < FEW or len(flags) < 2:
        return []
    counts = [sum(joined.is_set(row.get(name)) is True for name in flags) for row in rows]
    # A rare label may be set in later rows only.
    seen = sum(any(joined.is_set(row.get(name)) for row in rows) for name in flags)
    return flags if seen > 1 and counts.count(1) >= MOST * len(rows) else []


def _flags(evidence: Evidence) -> list[str]:
    return [
        name
        for name in evidence.columns
        if evidence.values(name)
        # What every row sets is no label of some.
        and {joined.is_set(row.get(name)) for row in evidence.rows} in ({True, False}, {False})
    ]


def several(evidence: Evidence) -> list[str]:
    """Return a line for an error about columns of 0 and 1 of which rows set several; none if they
    do not, or there are too few rows to see it."""
    flags = _flags(evidence)
    sets = [sum(joined.is_set(row.get(name)) is True for name in flags) for row in evidence.rows]
    rows = sum(count > 1 for count in sets)
    if len(flags) < 2 or len(sets) < FEW or group(evidence) or not rows:
        return []
    return [
        f"  {rows} of {len(sets)} rows set several of {listed(flags)}: several labels per row are "
        "not learned by this version, so that each of these ways learns one column"
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
