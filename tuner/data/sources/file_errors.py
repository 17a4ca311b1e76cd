"""Files whose rows can be used once the recipe says what they are: the lines that say it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.data.columns.alternatives import alternatives
from tuner.data.columns.evidence import Evidence
from tuner.data.columns.label_columns import numbered
from tuner.data.columns.nameless import sure
from tuner.data.columns.ways import Alternative, Unsure, recipe_line
from tuner.data.reading import table_guess
from tuner.data.reading.label_lines import MARK, labelled
from tuner.data.reading.marked_lines import marks_in
from tuner.data.reading.table import MAX_CSV_FIELD, positions
from tuner.data.sources.source import EVIDENCE, Source
from tuner.data.templates.template import AUTO, all_templates, load_template
from tuner.errors import DataError, TunerError
from tuner.schema.suggest import plain

_PAIRS = ("prompt", "completion")
_SEPARATORS = (" ||| ", "|||", " || ", "||", "\t")
# Of plain text, a few lines with one of these are rows only below a header.
_LOOSE = (";", ",")
_SHOWN, _FEW, _MANY = 60, 3, 10


def refuse_pairs(source: Source, names: Sequence[str]) -> None:
    """Refuse lines of plain text that may be pairs, since each has one separator, or the rows of a
    table, since each has as many cells as the first.

    Args:
        source: a text file, whose template is found.
        names: the columns that the parts of a line are likely to be, in order.

    Raises:
        DataError: with the lines of recipe for pairs or a table, and for text.
    """
    text = source.fit.template.name == "text" and source.path.suffix.lower() == ".txt"
    if not text or source.data.template != AUTO or source.file.reading.separator is not None:
        return
    found = [str(row.values["text"]) for row in source.rows[:EVIDENCE]]
    separator = next((each for each in _SEPARATORS if _in_each(found, each)), None)
    if separator is None:
        _refuse_table(source, found)
        return
    rows = [line.split(separator) for line in found]
    pairs = {*map(plain, rows[0])} <= {*map(plain, names)}
    if not pairs and _known(rows) == len(rows[0]):
        raise _table(source, separator, rows)
    header = table_guess.is_header(rows, names)
    columns = [cell.strip() for cell in rows[0]] if header else positions(2)
    if names == _PAIRS:
        _refuse_labelled(source, separator, columns, rows[bool(header) :])
    line = source.file.reading.line(
        separator=table_guess.shown(separator),
        header=json.dumps(bool(header)),
        columns=_mapping(names, columns),
    )
    raise DataError(
        "the rows can be read in two ways: as pairs, or as plain text",
        f"each line of {source.path.name} has {table_guess.shown(separator)} once, e.g. "
        f"{_start(found[0])}",
        "say which; for pairs:\n"
        f"  {line}\n"
        "for plain text, all of which is learned:\n"
        f"  {source.file.reading.line(template='text')}",
    )


def _refuse_labelled(
    source: Source, separator: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Refuse pairs of which one side is a label: the other one is what it is told from."""
    seen = Evidence([dict(zip(columns, cells, strict=True)) for cells in rows])
    ways = [way for way in sure(alternatives(seen, {}), seen) if way.template.label][:1]
    if not ways:
        return
    header = str(columns != positions(2)).lower()
    between = "tab" if separator == "\t" else separator
    given = {**source.given, "separator": between, "header": header}
    text = {**source.given, "template": "text"}
    label = ways[0].columns.get("label", "label")
    raise DataError(
        "the rows can be read in two ways: as texts with a label, or as plain text",
        f"each line of {source.path.name} has {table_guess.shown(separator)} once, and one side "
        f"repeats: column {label} is {seen.describe(label)}",
        "\n".join(
            [
                "say which; for texts with a label:",
                f"    {ways[0].line(given)}",
                *numbered(ways, seen),
                "for plain text, all of which is learned:",
                f"    {recipe_line(text, {})}",
            ]
        ),
    )


def _refuse_table(source: Source, found: Sequence[str]) -> None:
    """Refuse lines that are the rows of a table, as far as there are enough to see that."""
    csv.field_size_limit(MAX_CSV_FIELD)
    tables = [("\t", [line.split("\t") for line in found])]
    tables += [(each, list(csv.reader(found, delimiter=each))) for each in _LOOSE]
    for separator, rows in tables:
        width = len(rows[0])
        even = width > 1 and all(len(cells) == width for cells in rows)
        sure = separator not in _LOOSE or (width > 2 and len(rows) >= _MANY)
        if len(rows) >= _FEW and even and (sure or _known(rows)):
            raise _table(source, separator, rows)


def _table(source: Source, separator: str, rows: Sequence[Sequence[str]]) -> DataError:
    """The error about lines that may be the rows of a table."""
    cells = table_guess.shown(separator)
    return DataError(
        "the rows can be read in two ways: as a table, or as plain text",
        f"each line of {source.path.name} has {len(rows[0])} cells, separated by {cells}; the "
        f"first reads: {' | '.join(cell.strip()[:_SHOWN] for cell in rows[0])}",
        "say which; for a table:\n"
        f"  {source.file.reading.line(separator=cells)}\n"
        "for plain text, each line a row, the first one too, all of which is learned:\n"
        f"  {source.file.reading.line(template='text')}",
    )


def _known(rows: Sequence[Sequence[str]]) -> int:
    """How many names that columns often have the first of several rows has; 0: it is no header."""
    names = {plain(name) for each in all_templates() for name in each.columns.names}
    return table_guess.known_names(rows[0], names) * bool(table_guess.is_header(rows, names))


def refuse_marked(source: Source) -> None:
    """Refuse lines of plain text that are questions and answers.

    Args:
        source: a text file, whose template is found.

    Raises:
        DataError: with the lines of recipe for conversations, and for text.
    """
    reading = source.file.reading
    text = source.fit.template.name == "text" and source.path.suffix.lower() == ".txt"
    if not text or source.data.template != AUTO or reading.separator is not None:
        return
    if labelled(source.path, reading.encoding):
        raise _two_ways(source, "classification", "texts with labels", "which are", f"{MARK}NAME")
    if (marks := marks_in(source.path, reading.encoding)) is None:
        return
    what = "conversations" if marks.apart else "questions and answers"
    raise _two_ways(source, "chat", what, "whose answers are", " and ".join(marks.shown))


def _two_ways(source: Source, name: str, what: str, learned: str, marks: str) -> Unsure:
    """The error about lines whose beginnings may be marks, or a part of plain text."""
    ways = [Alternative(load_template(each, Path()), {}, 1) for each in (name, "text")]
    lines = [way.line(source.given) for way in ways]
    error = Unsure(
        f"the rows can be read in two ways: as {what}, or as plain text",
        f"lines of {source.path.name} begin with {marks}",
        f"say which; for {what}, {learned} learned:\n  {lines[0]}\n"
        f"for plain text, each line a row, all of which is learned:\n  {lines[1]}",
    )
    error.ways = ways
    return error


def explained(error: TunerError, source: Source, names: Sequence[str]) -> TunerError:
    """Return an error about columns that fit nothing with what the file shows of them.

    Args:
        error: of the source's format.
        source: the file and its rows.
        names: the columns that the file's columns are likely to be, in order.
    """
    if not isinstance(error, DataError) or "data: {" in error.fix:
        return error
    if any(isinstance(ids := row.values.get("input_ids"), list) for row in source.rows[:1]):
        return DataError(
            "the rows are token ids, and rows are text",
            f"columns: {', '.join(source.columns)}; e.g. input_ids {_start(ids)}",
            "point data.train to the text that they were made of, or decode them first: "
            "tokenizer.decode(input_ids), with the tokenizer that made them",
        )
    columns = source.columns
    if source.data.columns or columns != positions(len(columns)) or not source.rows:
        return error
    values = source.rows[0].values
    few = len(columns) <= len(names)
    likely = columns if few else [*columns[: len(names) - 1], columns[-1]]
    return DataError(
        "the columns have no names, so that it cannot be seen what they are",
        "",
        "say what they are, for example: "
        + source.file.reading.line(columns=_mapping(names[-len(likely) :], likely)),
        [f"column {name}: {_start(values.get(name))}" for name in columns],
    )


def _in_each(found: Sequence[str], separator: str) -> bool:
    """Whether each of several lines has a separator once, between two texts."""
    return len(found) > 1 and all(
        line.count(separator) == 1 and all(part.strip() for part in line.split(separator))
        for line in found
    )


def _mapping(names: Sequence[str], columns: Sequence[str]) -> str:
    pairs = ", ".join(f"{name}: {column}" for name, column in zip(names, columns, strict=False))
    return f"{{{pairs}}}"


def _start(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")
