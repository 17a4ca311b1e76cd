"""Which format the rows of preference data have, recognised from their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tuner.data.read import Row
from tuner.data.template import AUTO
from tuner.data.template_match import NONE, Fit, check_renames, only
from tuner.errors import DataError, RecipeError
from tuner.recipe.schema import DataSection


@dataclass(frozen=True)
class PreferenceFormat:
    """A format of preference data and the columns it reads."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns it reads."""
        return self.required + self.optional


_COMMON = ("system", "tools")
PREFERENCE_FORMATS = (
    PreferenceFormat("pairs", ("chosen", "rejected"), ("prompt", "margin", *_COMMON)),
    PreferenceFormat("rankings", ("prompt", "answers"), _COMMON),
    PreferenceFormat("scores", ("prompt", "answers"), ("scores", *_COMMON)),
    PreferenceFormat("thumbs", ("prompt", "label"), ("completion", *_COMMON)),
)
# The first one present counts.
ALIASES = {
    "prompt": ("messages", "conversations"),
    "answers": ("responses", "completions", "ranking"),
}


def choose_format(
    data: DataSection, present: Sequence[str], rows: Sequence[Row]
) -> Fit[PreferenceFormat]:
    """Find the format of these columns; a named one is only fitted to them.

    Args:
        data: `template` and `columns` are read.
        present: the columns of the data.
        rows: distinguish scores from rankings, whose columns may be the same.

    Raises:
        DataError: no format fits, or several do.
        RecipeError: `data.template` or `data.columns` names something that does not exist.
    """
    named = data.template != AUTO
    formats = [_named(data.template)] if named else list(PREFERENCE_FORMATS)
    known = {name for each in formats for name in each.columns}
    check_renames(data.columns, known, present, "no column of the format", "format")
    fits = [fit for each in formats if (fit := _fit(each, data.columns, present, named))]
    if not named:
        fits = _one_of_scores_and_rankings(fits, rows)
    if fit := only(fits, "format of preference data"):
        return fit
    raise DataError(
        f"the columns do not fit the format '{formats[0].name}'"
        if named
        else "no format of preference data fits the columns",
        fix="rename columns in the file, or map them: data.columns: {format's name: file's name}",
        problems=[
            f"found: {', '.join(present) or 'no columns'}",
            *(f"{each.name} expects: {', '.join(each.required)}" for each in formats),
        ],
    )


def _named(name: str) -> PreferenceFormat:
    names = [each.name for each in PREFERENCE_FORMATS]
    if name not in names:
        near = get_close_matches(name, names)
        raise RecipeError(
            f"data.template: '{name}' is not a format of preference data",
            f"formats: {', '.join(names)}",
            f"did you mean {near[0]}?" if near else "use one of them, or auto",
        )
    return PREFERENCE_FORMATS[names.index(name)]


def _fit(
    wanted: PreferenceFormat, renames: Mapping[str, str], present: Sequence[str], named: bool
) -> Fit[PreferenceFormat] | None:
    columns: dict[str, str] = {}
    for name in wanted.columns:
        names = (renames[name],) if name in renames else (name, *ALIASES.get(name, ()))
        found = [each for each in names if each in present and each != NONE]
        if found:
            columns[name] = found[0]
    if not all(name in columns for name in wanted.required):
        return None
    origin = "recipe" if named else f"columns {', '.join(columns.values())}"
    return Fit(wanted, columns, origin)


def _one_of_scores_and_rankings(
    fits: list[Fit[PreferenceFormat]], rows: Sequence[Row]
) -> list[Fit[PreferenceFormat]]:
    scored = False
    for fit in fits:
        if fit.template.name == "scores":
            values = [fit.value(row, "answers") for row in rows]
            items = [item for value in values if isinstance(value, list) for item in value]
            scored = "scores" in fit.columns or any(isinstance(item, dict) for item in items)
    return [fit for fit in fits if fit.template.name != ("rankings" if scored else "scores")]
