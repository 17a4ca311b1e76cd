"""A file looked at without a recipe: what it is taken for, and how else it can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tuner.data.advice import COMPARISONS, comparisons, ways_to_read
from tuner.data.columns.fitted import as_named
from tuner.data.columns.ways import MOST, Alternative, Line, Unsure, recipe_line
from tuner.data.reading.read import NotUtf8
from tuner.data.recognise import account, ends_open, left_out_first, recognise
from tuner.data.sft import SftData
from tuner.data.sources.both import mended
from tuner.data.sources.file_errors import explained, refuse_marked, refuse_pairs
from tuner.data.sources.files import read_source
from tuner.data.sources.source import EVIDENCE, Source
from tuner.data.sources.split_column import refuse_trained_tests
from tuner.data.sources.thumbs import thumb_columns
from tuner.data.tokens.prepared import Inputs
from tuner.data.understood import compared, understood
from tuner.errors import DataError, TunerError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import SourceSection

# Enough to see what a text is.
_LENGTH = 4096


@dataclass(frozen=True)
class Look:
    """What was seen in a file.

    Attributes:
        understood: what it is taken for, in a sentence; empty if that cannot be seen.
        error: why a recipe that only names the file is refused, as its plan would be.
        ways: recipes that read it; first what it is taken for, if there is no error.
        columns: of the file.
        compares: whether its rows compare answers, which supervised training refuses, and a reward
            model or DPO learns as they are.
        splits: whether some of its rows are for testing, by a column that says so.
    """

    understood: str
    error: TunerError | None
    ways: Sequence[Alternative]
    columns: Sequence[str]
    compares: bool = False
    splits: bool = False

    @property
    def sure(self) -> bool:
        """Whether there is a verb that learns the file as it is."""
        return self.error is None or (self.compares and not self.splits)

    def choices(self, given: Mapping[str, str]) -> Sequence[Alternative | Line]:
        """Return the ways to read the file; without any, the lines of recipe that its error has.

        Args:
            given: the keys by which a recipe names the file.
        """
        if self.error is None or (self.ways and self.sure):
            return self.ways
        if self.sure:
            return [Line(COMPARISONS, recipe_line(given, {}), compares=True)]
        lines = [
            Line(task, line.strip(), task.startswith(COMPARISONS), "multi_label: true" in line)
            for before, line in pairwise(self.error.fix.splitlines())
            if line.strip().startswith("data: {") and line.endswith("}")
            for task in [before.strip().rstrip(":").removeprefix("or ")]
        ]
        if not self.ways:
            return lines
        # What the error offers before these ways, except to leave columns out.
        known = [line.recipe for line in lines]
        place = [known.index(r) for way in self.ways if (r := way.line(given)) in known]
        more = lines[: min(place, default=len(lines))]
        return [*(each for each in more if not each.task.startswith("leave ")), *self.ways]


def look(file: Path, folder: Path, keys: Mapping[str, Any] | None = None) -> Look:
    """Look at the first rows of a file, as supervised training reads it.

    Args:
        file: the file.
        folder: where it is looked up first, if its path is relative.
        keys: of a recipe's source, which say how the file is read.

    Raises:
        DataError: the file cannot be read, or has no rows.
    """
    data = _section(file, keys or {})
    try:
        found = read_source(data, folder, _LENGTH, 0)
    except NotUtf8 as error:
        seen = look(file, folder, {**(keys or {}), "encoding": error.encoding})
        raise mended(error, seen.error) if seen.error else error from None
    found.bad.stop_if_too_many()
    if not found.rows:
        raise DataError(f"{file} has no rows", fix="name a file with rows")
    seen = look_at(found.train.sources[0], folder)
    if seen.error is None or seen.splits:
        try:
            SftData(Inputs(data, None, folder, 0, _LENGTH)).check()
        except TunerError as error:
            return seen if seen.compares else replace(seen, error=error)
    return seen


def refusal(
    file: Path, folder: Path, keys: Mapping[str, Any], way: Alternative
) -> TunerError | None:
    """Return why the plan of a recipe that reads a file in some way will stop, as far as the first
    rows show; None if they do not.

    Args:
        file: the file.
        folder: where it is looked up first.
        keys: of a recipe's source.
        way: how it is read.
    """
    own = {"template": way.template.name, "columns": dict(way.columns), **way.keys}
    try:
        SftData(Inputs(_section(file, keys, **own), None, folder, 0, _LENGTH)).check()
    except TunerError as error:
        return error
    return None


def _section(file: Path, keys: Mapping[str, Any], **own: Any) -> DataSection:
    item = SourceSection(source=str(file), **keys)
    return DataSection(train=(item,), eval=0, max_rows=EVIDENCE, draw="first", **own)


def look_at(source: Source, folder: Path) -> Look:
    """Look at a source that has been read; see `look`."""
    try:
        refuse_trained_tests(source, source.data)
    except DataError as error:
        return replace(_look_at(source, folder), error=error, ways=[], splits=True)
    return _look_at(source, folder)


def _look_at(source: Source, folder: Path) -> Look:
    try:
        source.fit = recognise(source, folder)
        refuse_pairs(source, SftData.likely)
        refuse_marked(source)
    except DataError as error:
        if not getattr(error, "ways", ()) and (said := _comparisons(source)):
            return Look(said, error, [], source.columns, compares=True)
        more = explained(error, source, SftData.likely)
        ways = error.ways if isinstance(error, Unsure) else []
        return Look("", more if isinstance(more, DataError) else error, ways, source.columns)
    thumbs, seen = thumb_columns(source.fit, source), source.evidence
    own = as_named(source.fit, seen)
    try:
        account(source, thumbs)
    except Unsure as error:
        asked = ends_open(source)
        # A way may be what it is taken for, with more left out.
        known = any(
            w.template is own.template and w.columns.items() >= own.columns.items()
            for w in error.ways
        )
        taken = [] if known or asked else [own]
        first = left_out_first(source)
        ways = [*taken, *error.ways] if first else [*error.ways, *taken]
        return Look(understood(source.fit, seen), error, ways, seen.columns)
    except DataError as error:
        if said := _comparisons(source):
            return Look(said, error, [], source.columns, compares=True)
        return Look(understood(source.fit, seen), error, [], seen.columns)
    ignored = [name for name in seen.columns if name not in source.fit.used.union(thumbs)]
    # With thumbs, a row is an answer, and whether it is liked: no other task.
    others = [] if thumbs else [way for way in ways_to_read(source) if way.task != own.task]
    said = understood(source.fit, seen, ignored)
    return Look(said, None, [own, *others[: MOST - 1]], seen.columns)


def _comparisons(source: Source) -> str:
    """What was understood of rows that compare answers; empty if they do not, or nothing says which
    answer is the better one."""
    try:
        fit = comparisons(source)
    except DataError:
        return ""
    return compared(fit, source.evidence, sorted({*source.columns} - fit.used)) if fit else ""
