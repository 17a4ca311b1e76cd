"""A file of rows to answer: in order, each with what is asked, or why it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.console.formatting import counted
from tuner.data.bad_rows import BadRow, BadRows
from tuner.data.prompts import PLACEHOLDER, Question, question_of
from tuner.data.reading.read import Row
from tuner.data.recognise import recognise
from tuner.data.rows.dialogue import RowRenderer
from tuner.data.rows.prompt_match import choose_prompts, prompt_fit
from tuner.data.sources.files import read_source
from tuner.data.sources.label_names import LabelNames
from tuner.data.sources.source import Source
from tuner.data.templates.template import AUTO, Template, load_template
from tuner.data.turns.turn_rules import TurnRules
from tuner.errors import DataError, RecipeError, TunerError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import SourceSection

# Keys of a run's data section by which its prompts are made; the others are about its files.
_KEPT = ("system", "instruction", "labels", "reasoning", "special_tokens_in_text", "render")
_ANY = 10**9


@dataclass(frozen=True)
class FileRow:
    """A row of a file.

    Attributes:
        index: its number in the file, from 0.
        line: where it begins, from 1.
        name: for messages.
        values: by column; none of one that cannot be read.
        row: as it was read; None if it cannot be.
        problem: why it cannot be answered; empty if it can.
    """

    index: int
    line: int
    name: str
    values: Mapping[str, Any]
    row: Row | None
    problem: str = ""


@dataclass(frozen=True)
class RowFile:
    """A file that was read.

    Attributes:
        rows: all of them, in order.
        source: what they were read from.
    """

    rows: list[FileRow]
    source: Source

    def each(self, make: Callable[[Row], Any]) -> tuple[RowFile, list[Any]]:
        """Make something of every row that has no problem yet.

        Args:
            make: raises `BadRow` for a row that it cannot use.

        Returns:
            The rows, with the problems found; and what was made, None where there is a problem.
        """
        rows, made = [], []
        for each in self.rows:
            result = None
            if each.row is not None and not each.problem:
                try:
                    result = make(each.row)
                except BadRow as problem:
                    each = replace(each, problem=str(problem))
            rows.append(each)
            made.append(result)
        return replace(self, rows=rows), made

    def refuse_problems(self, most: int) -> None:
        """Refuse more rows with problems than are allowed to stay without an answer.

        Raises:
            DataError: names them, and how many would have to be allowed.
        """
        bad = BadRows(most, [(each.name, each.problem) for each in self.rows if each.problem])
        count = len(bad.found)
        if count > most:
            them = "it" if count == 1 else "them"
            every = count == len(self.rows)
            raise DataError(
                f"{counted(count, 'row')} of {len(self.rows):,} cannot be answered",
                problems=bad.problems(),
                fix="name the columns that are read: --column NAME=COLUMN"
                if every
                else f"correct the rows; or leave {them} without an answer: --max-bad-rows {count}",
            )


def section(
    file: Path,
    run: DataSection | None,
    template: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> DataSection:
    """Return how a file is read: as the rows of a run were, or as the user says.

    Columns that only the answer reads may be missing, so those of the run are not asked for.

    Args:
        file: the file.
        run: the data section of a run; None without one.
        template: in place of the run's.
        columns: names of columns in the file, by those in the template.
    """
    known: dict[str, Any] = {}
    own: dict[str, str] = {}
    if run is not None:
        given = run.model_dump(exclude_defaults=True)
        known = {key: given[key] for key in _KEPT if key in given}
        first = run.train[0] if isinstance(run.train[0], SourceSection) else None
        for key in ("system", "instruction"):
            if first is not None and getattr(first, key) is not None:
                known[key] = getattr(first, key)
        known["template"] = (first and first.template) or run.template
        own = dict((first and first.columns) or run.columns)
    if template is not None:
        own = own if template == known.get("template") else {}
        known["template"] = template
    return DataSection(
        train=(str(file),), eval=0, max_bad_rows=_ANY, columns={**own, **(columns or {})}, **known
    )


def read(data: DataSection, folder: Path, asked: Mapping[str, str] | None = None) -> RowFile:
    """Read the rows of a file.

    Args:
        data: names the file (see `section`).
        folder: where the file of a template is looked up first.
        asked: columns that the user has named.

    Raises:
        DataError: the file cannot be read, or has no rows.
    """
    if data.template != AUTO:
        answers = load_template(data.template, folder).answer_columns
        kept = {
            name: file
            for name, file in data.columns.items()
            if name not in answers or name in (asked or {})
        }
        data = data.model_copy(update={"columns": kept})
    found = read_source(data, folder, 1, 0)
    (source,) = found.train.sources
    rows = [FileRow(0, row.line, row.id, row.values, row) for row in source.rows]
    bad = [
        FileRow(0, found.bad.lines[name], name, {}, None, reason)
        for name, reason in found.bad.found
    ]
    ordered = sorted([*rows, *bad], key=lambda each: each.line)
    if not rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in found.bad.found[:3])
        raise DataError(f"{source.path} has no rows to answer", why, "name a file with rows")
    return RowFile([replace(each, index=n) for n, each in enumerate(ordered)], source)


def asking(file: RowFile, folder: Path) -> tuple[Template, Callable[[Row], Question]]:
    """Find the template of the rows, whose answers may be missing.

    Args:
        file: what was read.
        folder: where the file of a template is looked up first.

    Returns:
        The template; and what makes the prompt of a row, with a placeholder for its answer, and
        raises `BadRow` if it has none.

    Raises:
        DataError: no template fits, or several do.
        RecipeError: a column is named that the template or the file does not have.
    """
    source = file.source
    try:
        found = recognise(source, folder, choose_prompts)
    except (DataError, RecipeError) as error:
        raise refused(error, source) from None
    fit = prompt_fit(found, source.columns)
    labels = LabelNames(labels=frozenset(source.data.labels))
    renderer = RowRenderer(fit, labels, TurnRules().of_source(source.data))

    def question(row: Row) -> Question:
        values, _ = fit.completed(row.values, PLACEHOLDER)
        made = question_of(renderer.render(replace(row, values=values)), "")
        if made is None:
            raise BadRow("the text is blank")
        return made

    return fit.template, question


def refused(error: TunerError, source: Source) -> TunerError:
    """Return the error for rows that no template fits, with the options that name one."""
    problems = error.problems or ([error.why] if error.why else [])
    named = f" as '{source.data.template}'" if source.data.template != AUTO else ""
    return type(error)(
        f"{source.name} cannot be read{named}: {error.what}",
        fix="name the template of the rows, and their columns: --template NAME "
        "--column NAME=COLUMN (tuner templates list)",
        problems=problems,
    )
