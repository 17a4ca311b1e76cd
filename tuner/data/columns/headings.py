"""Headings that ask what a row's question should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuner.data.columns.evidence import Evidence, blank
from tuner.data.fields import joined

_ASKED = ("question", "prompt", "instruction")


def headed(evidence: Evidence, heads: Sequence[str], used: Mapping[str, str]) -> dict[str, str]:
    """Return the template's column for questions with a heading before the file's column of them;
    nothing, unless there are rows without a question that have a heading.

    Args:
        evidence: what the columns hold.
        heads: the file's columns of headings that nothing reads.
        used: the template's columns and the file's.
    """
    for name in _ASKED:
        column = used.get(name, "")
        for head in heads if column in evidence.columns else ():
            if any(blank(row.get(column)) and not blank(row.get(head)) for row in evidence.rows):
                return {name: joined.together((head, column))}
    return {}
