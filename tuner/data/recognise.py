"""Which template fits a source: by its columns, and by contents where they hold conversations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tuner.data.advice import (
    as_comparisons,
    as_thumbs,
    by_rows,
    lacking,
    repeats_turns,
    several_labelled,
    unsure,
    uses,
    with_fits,
    with_ways,
)
from tuner.data.columns import accounting, several_labels
from tuner.data.columns.choices import choosing
from tuner.data.columns.evidence import Evidence
from tuner.data.columns.label_columns import numbered
from tuner.data.columns.leaves import root_of
from tuner.data.columns.template_match import NONE, Fit, NoTemplateFits, SeveralFit, choose
from tuner.data.columns.ways import recipe_line, shown
from tuner.data.reading.read import Row
from tuner.data.reading.transcripts import paired
from tuner.data.sources.source import EVIDENCE, Source
from tuner.data.sources.thumbs import refuse_scores
from tuner.data.templates.template import AUTO, Template, load_template, variables
from tuner.data.tokens.prepared import Inputs
from tuner.data.turns.turn_lists import LISTS, ends_with_user, shape
from tuner.data.understood import understood
from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.schema.suggest import listed

Accept = Callable[[Fit[Template]], bool]
Choose = Callable[[DataSection, Sequence[str], Path, Accept, Evidence], Fit[Template]]


def recognise(source: Source, folder: Path, by_columns: Choose = choose) -> Fit[Template]:
    """Find the template of a source.

    Two templates may read the same column: what its turns look like decides. Where no template fits
    the columns, and one of them holds conversations in all rows, it is read as `chat` does.

    Args:
        source: the file and its rows.
        folder: where a template's file is looked up first.
        by_columns: `choose`, or what takes its place for rows that may lack an answer.

    Raises:
        DataError: no template fits, or several do, or texts can be read in two ways.
        RecipeError: `data.columns` names something that does not exist.
    """
    data, rows = source.data, source.rows[:EVIDENCE]
    source.evidence = Evidence([row.values for row in rows])
    columns = [name for name in source.columns if name != data.reasoning_column]
    data = several_labels.settled(data, source.evidence, source.given)
    try:
        fit = by_columns(data, columns, folder, partial(_agrees, data, rows), source.evidence)
    except NoTemplateFits as error:
        mapped = any(file != NONE for file in data.columns.values())
        found = None if data.template != AUTO or mapped else _by_contents(source, folder)
        if found is None:
            raise with_ways(error, source) from None
        return found
    except SeveralFit as error:
        raise with_fits(error, source) from None
    if data.template == AUTO:
        _refuse_two_readings(fit, source)
    return replace(fit, spoken=_spoken(fit, rows, data.template != AUTO))


def as_begun(source: Source, sources: Sequence[Source], inputs: Inputs) -> bool:
    """Give a source the format that it had when the run that is resumed began.

    Args:
        source: whose format is set.
        sources: all of them.
        inputs: `formats` and `folder` are read.

    Returns:
        Whether a run is resumed and the source has the columns that the format reads.
    """
    known = inputs.formats
    if source.data.template != AUTO or len(known) != len(sources):
        return False
    name, columns = next(each for each, one in zip(known, sources, strict=True) if one is source)
    if not name:
        return False
    rows = source.rows[:EVIDENCE]
    source.evidence = Evidence([row.values for row in rows])
    if columns is None:
        named = source.data.model_copy(update={"template": name})
        try:
            columns = dict(choose(named, source.columns, inputs.folder).columns)
        except DataError:
            return False
    template = load_template(name, inputs.folder)
    fit = Fit(template, columns, f"columns {', '.join(columns.values())}")
    source.fit = replace(choosing(fit, source.evidence.rows), spoken=_spoken(fit, rows, False))
    return True


def _values(rows: Iterable[Row], column: str) -> list[Any]:
    return [row.values.get(column) for row in rows]


def _agrees(data: DataSection, rows: Sequence[Row], fit: Fit[Template]) -> bool:
    """Whether the turns that a template would read look as it says."""
    conversation = fit.template.conversation
    if conversation is None or conversation.column in data.columns:
        return True
    column = fit.columns[conversation.column]
    found = shape(_values(rows, column))
    if found is None:
        return column == conversation.column
    return fit.template.name == ("sharegpt" if found == "from" else "chat")


def _by_contents(source: Source, folder: Path) -> Fit[Template] | None:
    present = [name for name in source.columns if name not in source.data.columns]
    columns = [name for name in present if shape(_values(source.rows[:EVIDENCE], name))]
    if len(columns) != 1:
        return None
    template = load_template("chat", folder)
    extras = {name: name for name in template.columns.optional if name in source.columns}
    return Fit(template, {"messages": columns[0], **extras}, f"the turns in column {columns[0]}")


def account(source: Source, read: Collection[str], begun: bool = False) -> None:
    """Refuse a source of which columns of the task would not be used.

    Args:
        source: whose template is found; gets the columns of the task that nothing reads.
        read: columns that something else than the template reads.
        begun: whether a run is resumed.

    Raises:
        DataError: one looks like part of the task, or scores the answers; not if the recipe names
            the template, nor if the run has begun to train without it.
    """
    data, seen = source.data, source.evidence
    used = {root_of(file, seen.columns) for file in source.fit.used}
    # A template's column that the recipe renames leaves out the file's column of that name.
    known = used.union(read, data.columns, source.file.where)
    text = source.fit.template.text is not None
    task = accounting.unread(seen, known, text)[0]
    # What the turns say as well is nothing that is lost.
    repeated = [name for name in task if repeats_turns(source, name)]
    task = source.unread = [name for name in task if name not in repeated]
    if data.template != AUTO or begun:
        return
    if not task:
        return refuse_scores(source, known)
    it, looks = ("it", "looks") if len(task) == 1 else ("them", "look")
    compared = as_comparisons(source)
    ways = [] if compared else uses(source, task, used)
    gone = {**data.columns, **dict.fromkeys(task, NONE)}
    more = lacking(source.fit.template, source.fit.columns, source)
    out = [
        f"  leave {it} out, as earlier versions did with a warning:",
        f"    {recipe_line({**source.given, **more}, gone)}",
    ]
    out = [] if ends_open(source) else out
    more_labels = [] if compared else several_labelled(source, ways, task)
    others = compared or [*more_labels, *as_thumbs(source, task), *shown(ways, source.given)]
    others += numbered(ways, seen)
    lines = [*out, *others] if left_out_first(source) else [*others, *out]
    fix = [f"say what becomes of {it}:", *lines]
    holds = "; ".join(f"{name}: {seen.describe(name)}" for name in task[:5])
    error = DataError(
        f"{'column' if it == 'it' else 'columns'} {listed([repr(each) for each in task])} {looks} "
        "like part of the task, and would not be used",
        f"understood: {understood(source.fit, seen)}; not read: {holds}",
        "\n".join(fix),
    )
    mixed = by_rows(error, source, [used, *({name} for name in task)])
    raise mixed if mixed is not error else unsure(error, ways)


def ends_open(source: Source) -> bool:
    """Return whether every conversation of a source, as it is read, ends before an answer."""
    conversation = source.fit.template.conversation
    if conversation is None:
        return False
    turns = _values(source.rows[:EVIDENCE], source.fit.columns[conversation.column])
    return bool(shape(turns)) and ends_with_user(turns)


def left_out_first(source: Source) -> bool:
    """Return whether a source's columns that nothing reads are hardly to be learned: they only say
    what its conversations are about, or are remarks next to a text and its label."""
    template, unread = source.fit.template, source.unread
    if template.label is not None:
        return all(map(accounting.remarks, unread))
    return template.conversation is not None and all(map(source.evidence.repeats, unread))


def _refuse_two_readings(fit: Fit[Template], source: Source) -> None:
    """Refuse texts that are plain text and marked conversations alike."""
    if fit.template.name != "text":
        return
    column = fit.columns["text"]
    if mark := shape(_values(source.rows[:EVIDENCE], column)):
        file = source.path.name
        what = "are lists of turns" if mark in LISTS else f"begin with {mark}"
        raise DataError(
            "the rows can be read in two ways: as conversations, or as plain text",
            f"the texts in column '{column}' {what}",
            "say which; for conversations, whose answers are learned:\n"
            f"  data: {{train: {file}, template: chat, columns: {{messages: {column}}}}}\n"
            "for plain text, all of which is learned:\n"
            f"  data: {{train: {file}, template: text}}",
        )


def _spoken(fit: Fit[Template], rows: Sequence[Row], named: bool) -> frozenset[str]:
    """The template's columns that hold turns in place of a text: lists of them or, unless the
    template is named, texts with marks that end with the user's."""
    found = set()
    for turn in fit.template.turns:
        read = variables(turn.content or "").intersection(fit.template.columns.required)
        for name in read if turn.role in ("user", "assistant") else ():
            values = _values(rows, fit.columns.get(name, name))
            mark = shape(values)
            if mark in LISTS or (turn.role == "user" and not named and _said(mark, values)):
                found.add(name)
    return frozenset(found)


def _said(mark: str | None, values: Sequence[Any]) -> bool:
    """Whether prompts are marked turns; questions with answers may be examples in a prompt."""
    return mark is not None and not paired(mark) and ends_with_user(values)
