"""Write the table of docs/data.md: what the files of public sets are taken for.

    TUNER_TEST_DATA=FOLDER python -m tests.tools.sets_table

It has facts about the files only, none of their rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.data.alternatives import Alternative
from tuner.data.dialogue import RowRenderer
from tuner.data.files import read_source
from tuner.data.look import look
from tuner.data.read import READERS
from tuner.data.recognise import recognise
from tuner.data.row_values import learned
from tuner.errors import DataError
from tuner.recipe.schema import DataSection

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
ROWS = 100
HEAD = ("set", "files", "columns", "outcome", "recipe where one is needed")


@dataclass(frozen=True)
class Outcome:
    """What came of a file: its columns, what is said of it, and the recipe that reads it."""

    columns: str
    said: str
    recipe: str


def sets(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield each set with its files of rows."""
    for each in sorted(folder.iterdir()):
        files = sorted(path for path in each.rglob("*") if path.suffix in READERS)
        if files:
            yield each.name, files


def outcome(file: Path) -> Outcome:
    """Look at a file as `data: {train: FILE}` reads it, and try the recipes of an error.

    Raises:
        AssertionError: such a recipe does not read the rows.
    """
    try:
        found = look(file, file.parent)
    except DataError as error:
        return Outcome("", error.what.replace(str(file), "the file"), "")
    columns = ", ".join(found.columns)
    if found.error is None:
        task, _, rest = found.understood.partition(":")
        unused = rest.partition("; not used: ")[2]
        return Outcome(columns, task + (f"; not used: {unused}" if unused else ""), "")
    for way in found.ways:
        tried(file, way)
    comparisons = "tuner reward" in found.error.fix
    recipe = (
        "tuner reward, dpo" if comparisons else found.ways[0].line("FILE") if found.ways else ""
    )
    return Outcome(columns, f"asks: {found.error.what}", recipe)


def tried(file: Path, way: Alternative) -> None:
    """Read the first rows of a file with a recipe."""
    keys = {"template": way.template.name, "columns": dict(way.columns)}
    data = DataSection(train=(file.name,), eval=0, max_rows=ROWS, **keys)
    source = read_source(data, file.parent, 4096, 0).train.sources[0]
    source.fit = recognise(source, file.parent)
    renderer = RowRenderer(source.fit, choices=learned(source.fit, source.rows))
    made = 0
    for row in source.rows:
        try:
            made += bool(renderer.render(row))
        except Exception as error:
            if not made and row is source.rows[-1]:
                raise AssertionError(f"{file}: {way.line(file.name)}: {error}") from error
    assert made * 2 >= len(source.rows), f"{file}: {way.line(file.name)}"


def table(folder: Path) -> str:
    """Return the table; files of a set with the same outcome share a line."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for name, files in sets(folder):
        found: dict[Outcome, int] = {}
        for file in files:
            result = outcome(file)
            found[result] = found.get(result, 0) + 1
        for each, count in sorted(found.items(), key=lambda pair: (-pair[1], pair[0].said)):
            cells = (name, str(count), each.columns, each.said, f"`{each.recipe}`")
            lines.append(
                f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |".replace("``", "")
            )
    return "\n".join(lines) + "\n"


def with_table(page: str, text: str) -> str:
    """Return the page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    made = table(Path(os.environ["TUNER_TEST_DATA"]))
    PAGE.write_text(with_table(PAGE.read_text("utf-8"), made), "utf-8")
