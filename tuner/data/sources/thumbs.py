"""Answers that a reader disliked, as feedback and KTO files have them, or gave a score."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tuner.data.columns.evidence import filled
from tuner.data.columns.fitted import as_named
from tuner.data.columns.preference_advice import IN_ONE_ROW, called_scores, ranged
from tuner.data.columns.template_match import NONE, Fit, left_out
from tuner.data.columns.thumb_words import are_thumbs, liked
from tuner.data.columns.ways import Unsure, recipe_line, where_line
from tuner.data.reading.read import Row
from tuner.data.sources.source import Source
from tuner.data.templates.template import Template
from tuner.errors import DataError

# Of more values than these, the good ones are not listed.
_MOST_VALUES = 10


def thumb_columns(fit: Fit[Template], source: Source, resumed: bool = False) -> list[str]:
    """Return the columns that say whether each row's answer is liked.

    Such a column is named so, the template does not read it, the recipe does not leave it out, and
    it holds nothing but thumbs. A template without a prompt and an answer has nothing to like.

    Args:
        fit: the template and its columns.
        source: the file and its rows.
        resumed: a run goes on, which may have begun when fewer columns counted.
    """
    if fit.template.raw:
        return []
    disliked = source.data.disliked
    gone = left_out(source.data.columns) if disliked != "drop" else frozenset[str]()
    free = [name for name in source.columns if name not in fit.used and name not in gone]
    values = {name: [row.values.get(name) for row in source.rows] for name in free}
    # With an error for disliked rows, a run that began by all names has none.
    earlier = resumed and disliked == "error"
    return [name for name in free if are_thumbs(name, values[name], earlier)]


def is_down(row: Row, names: Sequence[str]) -> bool:
    """Return whether one of these columns says that the row's answer is not liked."""
    return any(liked(row.values.get(name), name) is False for name in names)


def refuse_disliked(source: Source, names: Sequence[str]) -> None:
    """Refuse a file of which some answers are labelled bad.

    Args:
        source: the file.
        names: its `thumb_columns`.

    Raises:
        DataError: with what a recipe can say of such rows.
    """
    down = [row for row in source.rows if is_down(row, names)]
    if not down:
        return
    listed = ", ".join(names)
    raise DataError(
        f"{len(down)} of {len(source.rows)} rows have an answer that is labelled bad",
        f"column {listed}, e.g. {down[0].id}; supervised learning would teach these answers",
        "learn from both kinds: tuner reward, or tuner rlhf with rlhf.algorithm: kto; or say what "
        "becomes of these rows:\n"
        "  data.disliked: drop    # leave them out, as earlier versions did\n"
        "  data.disliked: learn   # learn them like the others",
    )


def refuse_scores(source: Source, read: Collection[str]) -> None:
    """Refuse a file whose answers have scores that differ, and that nothing reads.

    Args:
        source: the file; its template has been found by its columns.
        read: columns that something reads, or that the recipe leaves out.

    Raises:
        DataError: with what a recipe can say of such rows.
    """
    template = source.fit.template
    if template.raw or template.label or template.choice or not template.answer_columns:
        return
    values = filled(source.rows, [name for name in source.columns if name not in read])
    scores = {n: each for n, each in called_scores(values).items() if len({*each}) > 1}
    if not scores:
        return
    gone = {**source.data.columns, **dict.fromkeys(scores, NONE)}
    lines = [f"for tuner reward, {IN_ONE_ROW};", "or say which answers are learned:"]
    for name, numbers in scores.items():
        middle = (min(numbers) + max(numbers)) / 2
        good = {n: str(v) for n, v in zip(numbers, values[name], strict=True) if n > middle}
        if len(good) <= _MOST_VALUES and not source.file.where:
            others = {file: each for file, each in gone.items() if file != name}
            where = {"where": where_line({name: [good[n] for n in sorted(good)]})}
            lines += [
                f"  those whose {name} is above the middle:",
                f"    {recipe_line({**source.given, **where}, others)}",
            ]
    lines += ["  all alike:", f"    {recipe_line(source.given, gone)}"]
    listed = ", ".join(f"{name} ({ranged(numbers)})" for name, numbers in scores.items())
    error = Unsure(
        "the answers have scores, and nothing would read them",
        f"column {listed}; supervised learning would teach the worst answers like the best",
        "\n".join(lines),
    )
    error.ways = [as_named(source.fit, source.evidence, gone)]
    raise error
