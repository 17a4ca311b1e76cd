"""Which format the rows of preference data have, recognised from their columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from tuner.data.columns import winners
from tuner.data.columns.preference_advice import nothing_fits, refuse_unanswered
from tuner.data.columns.preference_names import ALIASES, NUMBERED, named, together
from tuner.data.columns.template_match import NONE, Fit, check_renames, only
from tuner.data.columns.text_lists import in_lists
from tuner.data.columns.thumb_words import is_thumb
from tuner.data.columns.unused_parts import refuse_unused
from tuner.data.reading.read import Row
from tuner.data.reading.transcripts import paired
from tuner.data.templates.template import AUTO
from tuner.data.turns.turn_lists import LISTS, shape, unmarked
from tuner.errors import RecipeError
from tuner.recipe.schema import DataSection
from tuner.schema.suggest import plain


@dataclass(frozen=True)
class PreferenceFormat:
    """A format of preference data and the columns it reads.

    Args:
        pair: what distinguishes its two answers, if it has two columns of answers.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    pair: tuple[str, str] = ("1", "2")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns it reads."""
        return self.required + self.optional


@dataclass(frozen=True)
class PreferenceFit(Fit[PreferenceFormat]):
    """A format fitted to a file.

    Args:
        winners: which answer a value of the column `winner` names, by number; None: neither.
        lists: the format's columns that hold lists of texts, turn by turn.
    """

    winners: Mapping[str, int | None] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()

    @property
    def texts(self) -> dict[str, str]:
        """The columns of the prompt and of the answers that have a column each."""
        sides = ("prompt", "chosen", "rejected", "completion")
        return {n: c for n, c in self.columns.items() if n in sides or n.startswith("answer_")}


_COMMON = ("input", "history", "system", "tools")
PREFERENCE_FORMATS = (
    PreferenceFormat(
        "pairs",
        ("chosen", "rejected"),
        ("prompt", "margin", "score_chosen", "score_rejected", *_COMMON),
    ),
    PreferenceFormat("rankings", ("prompt", "answers"), ("ranks", *_COMMON)),
    PreferenceFormat("scores", ("prompt", "answers"), ("scores", *_COMMON)),
    PreferenceFormat("thumbs", ("prompt", "label"), ("completion", *_COMMON)),
    *(
        PreferenceFormat(
            "winners",
            (f"answer_{one}", f"answer_{other}", "winner"),
            ("prompt", f"score_{one}", f"score_{other}", *_COMMON),
            (one, other),
        )
        for one, other in NUMBERED
    ),
    *(
        PreferenceFormat(
            "scored_pairs",
            (f"answer_{one}", f"answer_{other}", f"score_{one}", f"score_{other}"),
            ("prompt", *_COMMON),
            (one, other),
        )
        for one, other in NUMBERED
    ),
)
# Of these columns, the names that count whatever is in them; others, if the values suit.
_SURE = {
    "answers": ("answers", "responses", "completions", "ranking"),
    "scores": ("scores",),
    "label": ("label",),
}
_LONGEST_WINNER = 40
_EARLIER = frozenset(map(plain, ALIASES["history"]))
_SUITS: dict[str, Callable[[Any], bool]] = {
    "answers": lambda value: isinstance(value, list),
    "scores": lambda value: isinstance(value, list),
    "ranks": lambda value: isinstance(value, list),
    "label": is_thumb,
    "history": lambda value: isinstance(value, list) or str(value).lstrip().startswith("["),
    "winner": lambda value: (
        not isinstance(value, list | dict) and len(str(value)) <= _LONGEST_WINNER
    ),
}


def choose_format(data: DataSection, present: Sequence[str], rows: Sequence[Row]) -> PreferenceFit:
    """Find the format of these columns; a named one is only fitted to them.

    Args:
        data: `template` and `columns` are read.
        present: the columns of the data.
        rows: their values tell apart what columns of the same name may be.

    Raises:
        DataError: no format fits, or several do; a part of the task would not be used; or which
            answer is the better one cannot be known.
        RecipeError: `data.template` or `data.columns` names something that does not exist.
    """
    by_name = data.template != AUTO
    formats = _named(data.template) if by_name else list(PREFERENCE_FORMATS)
    known = {name for each in formats for name in each.columns}
    check_renames(data.columns, known, present, "no column of the format", "format")
    fits = [fit for each in formats if (fit := _fit(each, data.columns, present, rows, by_name))]
    if not by_name:
        fits = _one_of_scores_and_rankings(fits, rows)
    best = [fit for fit in fits if not any(fit.used < other.used for other in fits)]
    if not only(best, "format of preference data"):
        expected = {
            each.name: f"{each.name} expects: {', '.join(each.required)}" for each in formats
        }
        raise nothing_fits(
            f"the columns do not fit the format '{formats[0].name}'"
            if by_name
            else "no format of preference data fits the columns",
            [*expected.values()],
            rows,
        )
    (fit,) = best
    refuse_unused(fit, data.columns, present, rows)
    fit = replace(fit, spoken=_spoken(fit, rows, by_name))
    if not by_name and (lists := in_lists(fit.texts, rows, fit.template.name)):
        fit = replace(fit, lists=lists, origin=f"{fit.origin}; texts in lists, turn by turn")
    if fit.template.name == "thumbs" and "completion" not in fit.columns:
        refuse_unanswered(fit.columns["prompt"], [n for n in present if n not in fit.used], rows)
    return _with_winners(fit, rows)


def _named(name: str) -> list[PreferenceFormat]:
    found = [each for each in PREFERENCE_FORMATS if each.name == name]
    if not found:
        names = list(dict.fromkeys(each.name for each in PREFERENCE_FORMATS))
        near = get_close_matches(name, names)
        raise RecipeError(
            f"data.template: '{name}' is not a format of preference data",
            f"formats: {', '.join(names)}",
            f"did you mean {near[0]}?" if near else "use one of them, or auto",
        )
    return found


def _fit(
    wanted: PreferenceFormat,
    renames: Mapping[str, str],
    present: Sequence[str],
    rows: Sequence[Row],
    by_name: bool,
) -> PreferenceFit | None:
    free = [name for name in present if renames.get(name) != NONE and name not in renames.values()]
    joint = together(free, wanted.pair)
    columns: dict[str, str] = {}
    for name in wanted.columns:
        if name in renames:
            found = renames[name] if renames[name] in present else None
        elif name in joint or name not in ALIASES:
            found = joint.get(name)
        else:
            other = [each for each in free if each not in columns.values()]
            other = [each for each in other if each not in joint.values()]
            suits = (each for each in named(other, ALIASES[name]) if _suits(name, each, rows))
            found = next(suits, None)
        if found:
            columns[name] = found
    if not all(name in columns for name in wanted.required):
        return None
    origin = "recipe" if by_name else f"columns {', '.join(columns.values())}"
    return PreferenceFit(wanted, columns, origin)


def _suits(name: str, column: str, rows: Sequence[Row]) -> bool:
    if name == "prompt" and plain(column) in _EARLIER:
        # Turns before a prompt are no prompt; a text is one.
        return not _suits("history", column, rows)
    if column in _SURE.get(name, ()) or name not in _SUITS:
        return True
    values = [value for row in rows if (value := row.values.get(column)) not in (None, "")]
    return bool(values) and all(map(_SUITS[name], values))


def _one_of_scores_and_rankings(
    fits: list[PreferenceFit], rows: Sequence[Row]
) -> list[PreferenceFit]:
    scored = False
    for fit in fits:
        if fit.template.name == "scores":
            values = [fit.value(row, "answers") for row in rows]
            items = [item for value in values if isinstance(value, list) for item in value]
            apart = [item for item in items if isinstance(item, dict) and "rank" not in item]
            scored = "scores" in fit.columns or bool(apart)
    return [fit for fit in fits if fit.template.name != ("rankings" if scored else "scores")]


def _spoken(fit: PreferenceFit, rows: Sequence[Row], by_name: bool) -> frozenset[str]:
    """The format's columns whose texts hold turns, as JSON or, unless the format is named, marked.

    A prompt of questions and answers is plain text: they may be examples in it. Of answers without
    a prompt, a few without marks among others are bad rows.
    """
    found = set()
    for name, column in fit.texts.items():
        texts = {row.id: row.values.get(column) for row in rows}
        if not all(isinstance(text, str) for text in texts.values() if text is not None):
            continue
        odd = unmarked(texts) if "prompt" not in fit.columns else []
        mark = shape(text for row, text in texts.items() if row not in odd)
        if mark in LISTS or (mark and not by_name and (name != "prompt" or not paired(mark))):
            found.add(name)
    return frozenset(found)


def _with_winners(fit: PreferenceFit, rows: Sequence[Row]) -> PreferenceFit:
    """The fit with what the values of its winner mean."""
    if fit.template.name != "winners":
        return fit
    first, second = (fit.columns[f"answer_{side}"] for side in fit.template.pair)
    scores = [f"score_{side}" for side in fit.template.pair]
    words = winners.meanings(
        [fit.value(row, "winner") for row in rows],
        fit.template.pair,
        (first, second),
        fit.columns["winner"],
        [[fit.value(row, name) for name in scores] for row in rows if scores[0] in fit.columns],
    )
    origin = f"{fit.origin}; {fit.columns['winner']} names the better answer"
    return replace(fit, winners=words, origin=origin)
