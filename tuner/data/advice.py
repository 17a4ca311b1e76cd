"""Errors about what a file is, with the recipes that would read it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuner.data.columns import several_labels
from tuner.data.columns.alternatives import alternatives
from tuner.data.columns.evidence import MOST as MOST_ROWS
from tuner.data.columns.evidence import Evidence, blank
from tuner.data.columns.fitted import as_named, before_turns, reasoned, swapped
from tuner.data.columns.label_columns import numbered
from tuner.data.columns.nameless import described, nameless, sure
from tuner.data.columns.one_hot import flags, group, one_hot, several, without
from tuner.data.columns.preference_advice import Guessed
from tuner.data.columns.preference_formats import PreferenceFit, choose_format
from tuner.data.columns.template_match import NONE, SeveralFit, left_out
from tuner.data.columns.thumb_words import is_thumb
from tuner.data.columns.unused_parts import UnusedParts
from tuner.data.columns.ways import MOST, Alternative, Unsure, recipe_line, shown, without_header
from tuner.data.columns.winners import NoneBetter
from tuner.data.fields.addressing import STAR
from tuner.data.sources.source import EVIDENCE, Source
from tuner.data.templates.template import AUTO, Template
from tuner.data.turns.turn_lists import shape
from tuner.errors import DataError, TunerError

_RANKED = "rankings, best first"
_THUMBS = "answers that are liked or not"
COMPARISONS = "comparisons of answers, for tuner rlhf with DPO, or for tuner reward"
# What a recipe has next to its data for these.
_DPO = "rlhf: {algorithm: dpo}   # or, for tuner reward: reward: {}"


def ways_to_read(source: Source) -> list[Alternative]:
    """Return recipes that would read a source that has been looked at, the best first."""
    gone = left_out(source.data.columns)
    rows = source.evidence.rows
    kept = [{name: value for name, value in row.items() if name not in gone} for row in rows]
    renames = {name: file for name, file in source.data.columns.items() if file != NONE}
    seen = Evidence(kept)
    ways = alternatives(seen, renames)
    hot = None if renames else one_hot(seen)
    ways = [hot, *without(ways, group(seen))] if hot else ways
    ways = [*_answers_apart(ways[:1], seen), *ways[1:]]
    return [
        replace(way, keys={**way.keys, **lacking(way.template, way.columns, source)})
        for way in ways
    ]


def _answers_apart(ways: Sequence[Alternative], seen: Evidence) -> list[Alternative]:
    """Ways that read the first of several answers, behind those with a row for each of them."""
    found = []
    for way in ways:
        (name,) = way.template.answer_columns if len(way.template.answer_columns) == 1 else ("",)
        column = way.columns.get(name, name)
        lists = seen.values(column.removesuffix(".0")) if column.endswith(".0") else []
        several = any(isinstance(each, list) and len(each) > 1 for each in lists)
        paths = [file for file in way.columns.values() if STAR in file.split(".")]
        if several and not paths:
            each = {**way.columns, name: f"{column.removesuffix('0')}{STAR}"}
            called = f"{way.task}, a row for each of the answers"
            found.append(replace(way, columns=each, called=called))
            way = replace(way, called=f"{way.task}, the first of the answers of each row")
        found.append(way)
    return found


def lacking(template: Template, columns: Mapping[str, str], source: Source) -> dict[str, int]:
    """Return the key that skips the rows that lack what a template needs, if these are a few.

    Args:
        template: what it reads.
        columns: the file's, by the template's name where it is another.
        source: with its rows.
    """
    needed = [n for n in template.columns.required if n not in template.columns.blank]
    files = [columns.get(name, name) for name in needed]
    known = [name for name in files if name in source.columns]
    without = sum(any(blank(row.values.get(name)) for name in known) for row in source.rows)
    some = source.data.max_bad_rows < without and without * 2 <= len(source.rows)
    return {"max_bad_rows": without} if some and "source" not in source.given else {}


def with_fits(error: SeveralFit, source: Source) -> DataError:
    """Return the error with a recipe for each of the templates that fit."""
    mixed = by_rows(error, source)
    if mixed is not error or "eval" in source.given:
        return mixed
    ways = [as_named(fit, source.evidence, source.data.columns) for fit in error.fits]
    fix = "\n".join(["say which one you mean:", *shown(ways, source.given)])
    return unsure(DataError(error.what, error.why, fix, error.problems), ways)


def with_ways(error: DataError, source: Source) -> DataError:
    """Return the error with recipes that would read the rows, and the columns of conversations in
    most rows, but not in all."""
    hints, rows = [], source.rows[:EVIDENCE]
    for name in source.columns:
        odd = [row.id for row in rows if not shape([row.values.get(name)])]
        if len(odd) * 2 < len(rows):
            where = f", except {', '.join(odd[:3])}" if odd else ""
            way = f"template: chat, columns: {{messages: {name}}} reads it"
            hints.append(f"'{name}' holds conversations{where}: {way}")
    if source.data.template != AUTO or "eval" in source.given:
        return DataError(error.what, error.why, error.fix, [*error.problems, *hints])
    if lines := without_header(source.path, source.columns, source.given):
        return DataError(error.what, error.why, "\n".join(lines), error.problems)
    compared = as_comparisons(source)
    # A list of answers may as well be one answer in several words, and liked ones can be learned.
    compares = bool(compared) and not any(each in compared[0] for each in (_RANKED, _THUMBS))
    ways = [] if hints or compares else ways_to_read(source)
    unnamed = nameless(source.columns)
    ways = sure(ways, source.evidence) if unnamed else ways
    lines = [*shown(ways, source.given), *numbered(ways, source.evidence)]
    lines += several(source.evidence) if ways else []
    first = compared or several_labelled(source, ways, source.columns)
    # Several answers are hardly in an order.
    ranked = bool(compared) and _RANKED in compared[0]
    lines = [*lines, *first] if ranked else [*first, *lines]
    fix = "\n".join(["say what the rows are:", *lines]) if lines else error.fix
    holds = [f"{name}: {source.evidence.describe(name)}" for name in source.columns]
    holds = [described(source.evidence, n) for n in source.columns] if unnamed else holds
    problems = [*error.problems[:1], *holds[:10]] if lines else error.problems
    problems += [] if compared else hints
    return unsure(DataError(error.what, error.why, fix, problems), ways)


def several_labelled(
    source: Source, ways: Sequence[Alternative], columns: Sequence[str]
) -> list[str]:
    """Return lines for an error about rows with several labels in some of these columns; those of 0
    and 1 are labels unless the first of the other ways has a likelier one."""
    seen = source.evidence
    hot = [name for name in flags(seen) if name in columns]
    if ways and ways[0].columns.get("label") not in (None, *hot):
        columns = [name for name in columns if name not in hot]
    return several_labels.lines(seen, source.given, source.data.columns, columns)


def by_rows(error: DataError, source: Source, groups: Iterable[Collection[str]] = ()) -> DataError:
    """Return the error with the rows of each kind of columns, if no row has those of two.

    `groups` are the columns of each kind; by default those that the error names.
    """
    kinds: dict[tuple[str, ...], list[str]] = {}
    for row in source.rows:
        kinds.setdefault(tuple(row.values), []).append(row.id)
    named = [{*names} for names in groups] or [
        set(problem.partition(": ")[2].split(", ")) for problem in error.problems
    ]
    if not named or any(sum(names <= {*kind} for names in named) > 1 for kind in kinds):
        return error
    listed = [f"{rows[0]} and others have: {', '.join(kind)}" for kind, rows in kinds.items()]
    return DataError(
        "the rows of one file have different formats",
        "",
        "put the rows of each kind into a file of its own, and list the files in data.train",
        [*error.problems, *listed[:5]],
    )


def uses(source: Source, task: list[str], used: Collection[str]) -> list[Alternative]:
    """Return ways to read columns of the task that nothing reads; none for an eval file, which is
    read as the training rows are."""
    if "eval" in source.given:
        return []
    seen = source.evidence
    known = [name for name in used if seen.values(name)]
    ways = [
        each
        for each in ways_to_read(source)
        if each.read > len(known) and not left_out(each.columns).issuperset(task)
    ]
    names = [swapped(source.fit, seen, each) for each in task] if len(task) == 1 else []
    thoughts = [reasoned(source.fit, seen, each) for each in task]
    said = [each for each in task if repeats_turns(source, each)]
    before = [before_turns(source.fit, seen, n, said) for n in task if n not in said]
    return [each for each in [*names, *thoughts, *ways, *before] if each][:MOST]


def repeats_turns(source: Source, column: str) -> bool:
    """Return whether a source's conversations say what a column says."""
    conversation = source.fit.template.conversation
    texts = source.evidence.texts(column)
    if conversation is None or len(texts) < len(source.evidence.values(column)):
        return False
    turns = source.fit.columns[conversation.column]
    rows = [row for row in source.evidence.rows if row.get(column)]
    said = sum(_said_in(str(row[column]), row.get(turns)) for row in rows)
    return bool(rows) and said >= MOST_ROWS * len(rows)


def _said_in(text: str, turns: Any) -> bool:
    return json.dumps(text.strip())[1:-1] in json.dumps(turns, default=str)


def comparisons(source: Source) -> PreferenceFit | None:
    """Return the format of rows that compare answers with each other; None if they do not.

    Raises:
        NoneBetter: nothing says which answer is the better one.
    """
    try:
        fit = choose_format(source.data, source.columns, source.rows[:EVIDENCE])
    except NoneBetter:
        raise
    except TunerError:
        return None
    return None if fit.template.name == "thumbs" else fit


def as_comparisons(source: Source) -> list[str]:
    """Return lines for an error, where the rows compare answers with each other."""
    more: Mapping[str, str] = {}
    try:
        fit = choose_format(source.data, source.columns, source.rows[:EVIDENCE])
        ranked = fit.template.name == "rankings" and "ranks" not in fit.columns
        what = _RANKED if ranked else fit.template.name
        if what == "thumbs" or (ranked and not _ranked(fit, source)):
            return []
    except NoneBetter as error:
        return [f"  {COMPARISONS}; then", *(f"  {line}" for line in error.fix.splitlines())]
    except (Guessed, UnusedParts) as error:
        if not error.columns:
            return []
        more = error.columns
        what = _THUMBS if "label" in more else "pairs" if "chosen" in more else "with these columns"
    except TunerError:
        return []
    return [
        f"  {COMPARISONS} ({what}):",
        f"    {recipe_line(source.given, {**source.data.columns, **more})}",
        f"    {_DPO}",
    ]


def _ranked(fit: PreferenceFit, source: Source) -> bool:
    """Whether most rows have several answers, so that an order may be meant."""
    lists = source.evidence.values(fit.columns["answers"])
    return sum(isinstance(each, list) and len(each) > 1 for each in lists) * 2 > len(lists)


def as_thumbs(source: Source, task: Collection[str]) -> list[str]:
    """Return lines for an error, where one of these columns may say which answers are liked."""
    try:
        fit = choose_format(source.data, source.columns, source.rows[:EVIDENCE])
    except TunerError:
        return []
    label = fit.columns.get("label", "")
    rows = source.evidence.values(label) if label in task else []
    if fit.template.name != "thumbs" or not rows or not all(map(is_thumb, rows)):
        return []
    return [
        f"  answers that are liked or not ('{label}'), for tuner reward, or for tuner rlhf with "
        "rlhf.algorithm: kto, as they are:",
        f"    {recipe_line(source.given, source.data.columns)}",
        f"    {_DPO}",
    ]


def unsure(error: DataError, ways: Sequence[Alternative]) -> Unsure:
    """Return an error with the ways in question."""
    found = Unsure(error.what, error.why, error.fix, error.problems)
    found.ways = ways[:MOST]
    return found
