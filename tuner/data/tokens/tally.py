"""What is lost between the rows of a split and its examples."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """What was lost on the way from the items of a split to its examples.

    Args:
        truncated: rows that were cut.
        dropped: rows left out, once per example.
        supervised_cut: supervised tokens that were cut off or left out.
        supervised_kept: those of the examples.
        foreign: special tokens in the rows' text.
        documents: rows that lost the end of a document.
        turns: rows that lost their oldest turns.
        left_out: rows of which only the answer could have been cut.
        pieces: how many each row was split into.
        longest: tokens of the longest text, fitting or not.
        pairs: pairs of answers left out.
    """

    truncated: set[str] = field(default_factory=set)
    dropped: list[str] = field(default_factory=list)
    documents: set[str] = field(default_factory=set)
    turns: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    supervised_cut: int = 0
    supervised_kept: int = 0
    foreign: int = 0
    pieces: dict[str, int] = field(default_factory=dict)
    longest: int = 0
    pairs: int = 0

    @property
    def shortened(self) -> set[str]:
        """The rows that are not whole, but for those that became pieces."""
        return self.truncated | self.documents | self.turns | self.left_out | {*self.dropped}
