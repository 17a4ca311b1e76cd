"""Answers that a reader disliked: rows whose thumb is down, as feedback and KTO files have them."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.data.columns.template_match import Fit, left_out
from tuner.data.columns.thumb_words import are_thumbs, liked
from tuner.data.reading.read import Row
from tuner.data.sources.source import Source
from tuner.data.templates.template import Template
from tuner.errors import DataError


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
        "learn from both kinds: tuner reward, or tuner rlhf with rlhf.algorithm: dpo; or say what "
        "becomes of these rows:\n"
        "  data.disliked: drop    # leave them out, as earlier versions did\n"
        "  data.disliked: learn   # learn them like the others",
    )
