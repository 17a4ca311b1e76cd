"""What a classification head learns of an answer: its class, or which of several labels it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.fields import several
from tuner.data.rows.dialogue import Dialogue


class Classes:
    """The classes of a head.

    Args:
        labels: in the order of its outputs.
        several: whether a row may have any number of them.
    """

    def __init__(self, labels: Sequence[str], several: bool = False) -> None:
        self.labels, self.several = list(labels), several

    def check(self, row: Dialogue) -> None:
        """Check the answer of a row.

        Raises:
            BadRow: it is none of the labels.
        """
        if not self.several and row.answer.strip() not in self.labels:
            raise BadRow("its answer is not one of the labels")
        for label in several.of_answer(row.answer) if self.several else ():
            if label not in self.labels:
                raise BadRow(f"'{label}' is not one of the labels")

    def learned(self, row: Dialogue) -> dict[str, Any]:
        """Return the fields of an `Example` that say what is learned of a checked row."""
        if not self.several:
            return {"label": self.labels.index(row.answer.strip())}
        own = several.of_answer(row.answer)
        return {"goals": tuple(float(label in own) for label in self.labels)}
