"""A file of a recipe and its rows, with what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.data.columns.evidence import Evidence
from tuner.data.columns.template_match import Fit
from tuner.data.reading import documents
from tuner.data.reading.read import Row
from tuner.data.sources.source_file import SourceFile
from tuner.recipe.schema import DataSection

# Rows by whose contents a format is recognised.
EVIDENCE = 1000


@dataclass
class Source:
    """A file of a split, and its rows.

    Args:
        file: the file, opened.
        name: what it is called in messages; no other source has the name.
        data: the recipe's data section, with what is the source's own in its place.
        number: of the source among those of its split.
        wanted: how many of its rows to use at most; None: all.
        drawn_from: how many rows the file has, where only some of them are used.
        given: keys of a recipe that names it: train, eval or, as one of several, source first.
        rows: its rows.
        to_draw: they are only the first ones, until some are drawn label by label.
        labels: how many rows of each label were drawn.
        fit: its format, once it is recognised; without rows it has none.
        evidence: what its first rows hold, once it is recognised.
        unread: of its columns that nothing reads, those that look like part of the task.
    """

    file: SourceFile
    name: str
    data: DataSection
    number: int
    wanted: int | None = None
    drawn_from: int | None = None
    given: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    to_draw: bool = False
    labels: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    fit: Fit[Any] = field(init=False)
    evidence: Evidence = field(init=False)

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.file.path

    @property
    def columns(self) -> list[str]:
        """The columns of its rows, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    def facts(self) -> dict[str, Any]:
        """Return the report's facts about the file."""
        drawn: dict[str, Any] = {}
        if self.drawn_from is not None:
            drawn = {"drawn_from": self.drawn_from, "drawn_labels": self.labels}
        return {
            "name": self.name,
            "sha256": documents.sha256(self.path),
            "rows": len(self.rows),
            **drawn,
            **self.file.facts(),
            **self._format(),
        }

    def _format(self) -> dict[str, Any]:
        if not self.rows:
            return {}
        used = [name for name in self.columns if name in self.fit.used]
        return {
            "template": self.fit.template.name,
            "columns": used,
            "mapping": dict(self.fit.columns),
            **({"spoken": sorted(self.fit.spoken)} if self.fit.spoken else {}),
        }


@dataclass
class SplitFiles:
    """The files of one split (train or eval)."""

    name: str
    sources: list[Source]

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [source.path for source in self.sources]

    @property
    def rows(self) -> list[Row]:
        """The rows of all files."""
        return [row for source in self.sources for row in source.rows]
