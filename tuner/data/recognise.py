"""Which template fits a source: by its columns, and by contents where they hold conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tuner.data.files import EVIDENCE, Source
from tuner.data.read import Row
from tuner.data.template import AUTO, Template, load_template, variables
from tuner.data.template_match import Fit, NoTemplateFits, choose
from tuner.data.transcripts import paired
from tuner.data.turn_lists import LISTS, ends_with_user, shape
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

Accept = Callable[[Fit[Template]], bool]
Choose = Callable[[DataSection, Sequence[str], Path, Accept], Fit[Template]]


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
    columns = [name for name in source.columns if name != data.reasoning_column]
    try:
        fit = by_columns(data, columns, folder, partial(_agrees, data, rows))
    except NoTemplateFits as error:
        found = None if data.template != AUTO or data.columns else _by_contents(source, folder)
        if found is None:
            raise _with_hints(error, source) from None
        return found
    except DataError as error:
        raise _by_rows(error, source) from None
    if data.template == AUTO:
        _refuse_two_readings(fit, source)
    return replace(fit, spoken=_spoken(fit, rows, data.template != AUTO))


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
    columns = [name for name in source.columns if shape(_values(source.rows[:EVIDENCE], name))]
    if len(columns) != 1:
        return None
    template = load_template("chat", folder)
    extras = {name: name for name in template.columns.optional if name in source.columns}
    return Fit(template, {"messages": columns[0], **extras}, f"the turns in column {columns[0]}")


def _by_rows(error: DataError, source: Source) -> DataError:
    """The error with the rows that have the columns of each kind, if no row has those of two."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for row in source.rows:
        kinds.setdefault(tuple(row.values), []).append(row.id)
    named = [set(problem.partition(": ")[2].split(", ")) for problem in error.problems]
    if not named or any(sum(names <= {*kind} for names in named) > 1 for kind in kinds):
        return error
    listed = [f"{rows[0]} and others have: {', '.join(kind)}" for kind, rows in kinds.items()]
    return DataError(
        "the rows of one file have different formats",
        "",
        "put the rows of each kind into a file of its own, and list the files in data.train",
        [*error.problems, *listed[:5]],
    )


def _with_hints(error: DataError, source: Source) -> DataError:
    """The error with the columns that hold conversations in most rows, but not in all."""
    hints = []
    for name in source.columns:
        rows = source.rows[:EVIDENCE]
        odd = [row.id for row in rows if not shape([row.values.get(name)])]
        if len(odd) * 2 < len(rows):
            where = f", except {', '.join(odd[:3])}" if odd else ""
            hints.append(
                f"'{name}' holds conversations{where}: "
                f"template: chat, columns: {{messages: {name}}} reads it"
            )
    return DataError(error.what, error.why, error.fix, [*error.problems, *hints])


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
