"""Metrics of rows that have any number of labels; each label is answered from a probability of 0.5
on."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.evaluate.likelihood import Observation


def _counts(observed: Sequence[Observation]) -> list[tuple[int, int]]:
    """Of each label: how often it is answered and right, and how often it is answered or right,
    what is both counted twice."""
    pairs = [list(zip(item.outputs, item.row.example.goals, strict=True)) for item in observed]
    counts = []
    for column in zip(*pairs, strict=True):
        said = [(output >= 0, goal == 1) for output, goal in column]
        counts.append((sum(a and b for a, b in said), sum(a + b for a, b in said)))
    return counts


def _f1(both: int, either: int) -> float:
    return 2 * both / either if either else 0.0


def micro_f1(observed: Sequence[Observation]) -> float | None:
    """Return F1 over all decisions of all rows and labels; 0 where no label is answered or right,
    as in scikit-learn."""
    counts = _counts(observed)
    totals = (sum(both for both, _ in counts), sum(either for _, either in counts))
    return _f1(*totals) if counts else None


def macro_f1(observed: Sequence[Observation]) -> float | None:
    """Return the mean of the labels' F1, each 0 where it is never answered or right, as in
    scikit-learn."""
    counts = _counts(observed)
    return sum(_f1(*each) for each in counts) / len(counts) if counts else None


def subset_accuracy(observed: Sequence[Observation]) -> float | None:
    """Return the share of the rows of which all labels are answered, and no other."""
    if not observed:
        return None
    right = sum(
        all((output >= 0) == (goal == 1) for output, goal in zip(outputs, goals, strict=True))
        for outputs, goals in ((item.outputs, item.row.example.goals) for item in observed)
    )
    return right / len(observed)
