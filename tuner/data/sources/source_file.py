"""A file of a source: how it is read, and the rows that a recipe's paths make of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tuner.console.formatting import counted
from tuner.data.bad_rows import BadRow, BadRows
from tuner.data.columns.preference_formats import PREFERENCE_FORMATS
from tuner.data.columns.preference_names import ALIASES, CHOSEN_REJECTED
from tuner.data.columns.ways import KEPT, kept_keys, written_keys
from tuner.data.fields import joined
from tuner.data.fields.addressing import Paths
from tuner.data.fields.values import as_json
from tuner.data.reading import read
from tuner.data.reading.label_lines import MARK, labelled
from tuner.data.reading.lines import UTF8
from tuner.data.reading.marked_lines import Marks, marks_in
from tuner.data.reading.read import Row
from tuner.data.reading.table import Reading
from tuner.data.templates.template import all_templates, load_template
from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.recipe.schema_source import SourceSection
from tuner.schema.suggest import listed, plain

_KEYS = ("encoding", "separator", "header", "quotes")
# Values of a column that a message lists.
MOST = 10


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, opened.

    Attributes:
        path: where it is.
        reading: how it is read.
        said: what was seen of that in the file, and is not the rule.
        paths: where columns of the recipe are in its rows.
        where: the values that a row must have one of, by column.
        seen: how many rows had each value of these columns, when it was read last.
        hub: of a data set on the Hub: the keys that asked for it, its commit and its file.
    """

    path: Path
    reading: Reading
    said: list[str]
    paths: Paths
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seen: dict[str, Counter[str]] = field(default_factory=dict)
    hub: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: Path, item: SourceSection, key: str, data: DataSection, folder: Path
    ) -> SourceFile:
        """Find out how a file is read.

        Args:
            path: the file.
            item: says how it is read, as far as it does.
            key: the recipe's, data.train or data.eval.
            data: the data section, with what is the source's own in its place.
            folder: where a template's file is looked up first.

        Raises:
            DataError, RecipeError: as `read.settle` does, and for paths that do not go together.
        """
        asked = Reading(
            item.source,
            key.removeprefix("data."),
            item.encoding or UTF8,
            item.separator,
            item.header,
            item.quotes,
            given=written_keys(item),
            kept={n.removeprefix(KEPT): each for n, each in kept_keys(data, key).items()},
        )
        reading, said = read.settle(path, asked, partial(_column_names, data, folder))
        if marks := _marks(path, reading, data):
            reading = replace(reading, turns=True)
            what = (
                "conversations, an empty line between them" if marks.apart else "rows of their own"
            )
            said = [*said, f"what follows {' and '.join(marks.shown)} as {what}"]
        if _labelled(path, reading, data):
            reading, said = replace(reading, labels=True), [*said, f"{MARK}NAME as the label"]
        paths = Paths([*_asked(data), *(item.where or ())], data.multi_label)
        return cls(path, reading, said, paths, item.where or {})

    def rows(self, bad: BadRows, most: int | None = None) -> Iterator[Row]:
        """Yield its rows, at most so many, with the columns that paths lead to.

        Raises:
            DataError: as `read.read` does, and if no row has what a path leads to.
        """
        none = True
        self.paths.restart()
        self.seen.update({name: Counter() for name in self.where})
        for row in islice(filter(self._wanted, self._rows(bad)), most):
            none = False
            yield row
        if none and any(self.seen.values()):
            raise self._no_row()
        if none and self.paths.refused:
            raise DataError(
                f"data.columns: no row of {self.path.name} can be read so",
                self.paths.refused,
                "correct the path",
            )
        for path, why in self.paths.missed.items():
            raise DataError(
                f"data.columns: no row of {self.path.name} has '{path}'", why, "correct the path"
            )

    def _wanted(self, row: Row) -> bool:
        """Whether a row has the values that the recipe asks for; each is counted."""
        found = {name: _value(row.values.get(name)) for name in self.where}
        for name, value in found.items():
            self.seen[name][value] += 1
        return all(value in self.where[name] for name, value in found.items())

    def _no_row(self) -> DataError:
        asked = ", ".join(f"{n}: {listed(values, 'or')}" for n, values in self.where.items())
        return DataError(
            f"{self.reading.name}: no row has what data.{self.reading.key} asks for: {asked}",
            "; ".join(f"{name} is {_counted(seen)}" for name, seen in self.seen.items()),
            "correct where",
        )

    def _rows(self, bad: BadRows) -> Iterator[Row]:
        for row in read.read(self.path, bad, reading=self.reading):
            try:
                yield from self.paths.spread(row)
            except BadRow as problem:
                self.paths.refused = self.paths.refused or f"{row.id}: {problem}"
                bad.add(row.id, str(problem), row.line)

    def facts(self) -> dict[str, Any]:
        """Return how a table is read, and the rows that were made of items."""
        facts: dict[str, Any] = {}
        if self.reading.header is not None:
            facts["read"] = {name: getattr(self.reading, name) for name in _KEYS}
        if self.hub:
            facts["hub"] = self.hub
        if self.where:
            facts["where"] = {
                name: dict(seen.most_common(MOST)) for name, seen in self.seen.items()
            }
        if self.paths.rows:
            of = {"of": self.paths.of, "rows": self.paths.rows, "without": self.paths.empty}
            facts["items"] = {"rows_made": self.paths.items, **of}
        return facts

    def left_out(self) -> str:
        """Return which rows are used, and which are not; empty if all are."""
        return "; ".join(
            f"rows with {name} {listed(self.where[name], 'or')}, of {_counted(seen)}"
            for name, seen in self.seen.items()
        )

    def items(self) -> str:
        """Return how many rows were made of items; empty if none were."""
        paths = self.paths
        if not paths.rows:
            return ""
        none = f", {paths.empty} of them without any" if paths.empty else ""
        made = f"{counted(paths.items, 'row')} of the items of {paths.of}"
        lost = [
            f"; {counted(n, 'other item')} of {path} not read" for path, n in paths.skipped.items()
        ]
        return f"{made} in {counted(paths.rows, 'row')} of the file{none}{''.join(lost)}"


def _labelled(path: Path, reading: Reading, data: DataSection) -> bool:
    """Whether the lines of a text file begin with labels, and the recipe learns these."""
    plain_text = path.suffix.lower() == ".txt" and reading.separator is None
    return plain_text and data.template == "classification" and labelled(path, reading.encoding)


def _marks(path: Path, reading: Reading, data: DataSection) -> Marks | None:
    """The marks of a text file's lines, if the recipe reads what they say as conversations."""
    plain_text = path.suffix.lower() == ".txt" and reading.separator is None
    if not plain_text or data.template != "chat" or "messages" in data.columns:
        return None
    return marks_in(path, reading.encoding)


def _value(value: Any) -> str:
    """A value as a recipe writes it; nothing, where there is none."""
    return "" if value is None else (value if isinstance(value, str) else as_json(value)).strip()


def _counted(seen: Counter[str]) -> str:
    """Values with how often there are, the most frequent first."""
    shown = [f"'{value}' ({count:,})" for value, count in seen.most_common(MOST)]
    return ", ".join(shown) + (", ..." if len(seen) > MOST else "")


def _asked(data: DataSection) -> list[str]:
    """The columns that a recipe names."""
    return [*data.columns.values(), *filter(None, [data.reasoning_column])]


def _column_names(data: DataSection, folder: Path) -> frozenset[str]:
    """Names that the columns of a header may have, plain."""
    names = [name for each in PREFERENCE_FORMATS for name in each.columns]
    names += [name for others in ALIASES.values() for name in others]
    names += [name for pair in CHOSEN_REJECTED for name in pair]
    templates = all_templates()
    if data.template.endswith((".yaml", ".yml")):
        templates.append(load_template(data.template, folder))
    for template in templates:
        columns = template.columns
        names += columns.names
        names += [name for alias in columns.aliases for name in alias.values()]
        names += [name for others in columns.other_names.values() for name in others]
    asked = [each for name in _asked(data) for each in (name, *joined.parts(name))]
    names += [part for name in asked for part in (name, name.partition(".")[0])]
    return frozenset(map(plain, names))
