"""Write the table of docs/templates.md: what the files of public sets are taken for.

    TUNER_TEST_DATA=FOLDER python -m tests.tools.sets_table

It has facts about the files only, none of their rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.data.bad_rows import BadRow
from tuner.data.look import Look, look_at
from tuner.data.reading.read import READERS
from tuner.data.rows.dialogue import RowRenderer
from tuner.data.sources.files import read_source
from tuner.data.sources.label_names import LabelNames
from tuner.data.understood import LANGUAGES
from tuner.errors import DataError
from tuner.recipe.schema import DataSection
from tuner.schema import strict_yaml

PAGE = Path(__file__).resolve().parents[2] / "docs" / "templates.md"
BEGIN, END = "<!-- sets: begin -->", "<!-- sets: end -->"
# Prompts and licences that lie next to the rows.
NO_ROWS = ("base_prompt.txt", "licences.tsv", "cot-prompts")
ROWS, STEPS = 100, 3
HEAD = ("set", "files", "columns", "outcome", "with")


@dataclass(frozen=True)
class Outcome:
    """What came of a file: its columns, what is said of it, and the recipe that reads it."""

    columns: str
    said: str
    recipe: str


def sets(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield each set with its files of rows."""
    for each in sorted(folder.iterdir()):
        files = [path for path in sorted(each.rglob("*")) if path.suffix in READERS]
        if files := [path for path in files if not {*NO_ROWS} & {path.name, path.parent.name}]:
            yield each.name, files


def outcome(file: Path) -> Outcome:
    """Look at a file as `data: {train: FILE}` reads it; of an error, follow each recipe.

    Raises:
        AssertionError: following one does not lead to rows that are read.
    """
    seen = looked(file, {"train": file.name})
    # The first row of a table without a header is no name.
    columns = ", ".join(seen.columns) if all(len(each) < 40 for each in seen.columns) else ""
    if seen.error is None:
        task, _, rest = seen.understood.partition(":")
        notes = [each for each in rest.split("; ")[1:] if each not in LANGUAGES.values()]
        return Outcome(columns, "; ".join([task, *notes]), "")
    said = (
        f"asks: {seen.error.what}".replace(str(file), "FILE")
        .replace(file.name, "FILE")
        .removeprefix("asks: FILE: ")
    )
    said = said if said.startswith("asks: ") else f"asks: {said}"
    if "tuner reward" in seen.error.fix:
        return Outcome(columns, said, "for comparisons: tuner reward, tuner rlhf")
    ways = [followed(file, line) for line in lines_of(seen.error.fix)]
    way = next((each for each in ways if "header: false" in each), next(iter(ways), ""))
    return Outcome(columns, said, way.replace(file.name, "FILE"))


def looked(file: Path, keys: Mapping[str, Any]) -> Look:
    """Look at a file with the keys of a data section."""
    data = DataSection.model_validate({**keys, "eval": 0, "max_rows": ROWS})
    try:
        source = read_source(data, file.parent, 4096, 0).train.sources[0]
        found = look_at(source, file.parent)
    except DataError as error:
        return Look("", error, [], [])
    if found.error is None:
        renderer = RowRenderer(source.fit, LabelNames(several=data.multi_label))
        bad = 0
        for row in source.rows:
            try:
                renderer.render(row)
            except BadRow:
                bad += 1
        assert bad * 2 <= len(source.rows), f"{file}: {keys}"
        if bad:
            found = replace(found, understood=f"{found.understood}; some bad rows")
    return found


def lines_of(fix: str) -> list[str]:
    """Return the data sections in the text of a fix."""
    found = []
    for part in fix.split("data: {")[1:]:
        depth, end = 1, 0
        while depth:
            depth += {"{": 1, "}": -1}.get(part[end], 0)
            end += 1
        found.append("{" + part[:end])
    return found


def followed(file: Path, line: str) -> str:
    """Return the line with which a file is read, begun with one of an error; each error on the way
    has the next."""
    for _ in range(STEPS):
        found = looked(file, strict_yaml.parse(line)[0])
        if found.error is None:
            return f"data: {line}"
        line, before = next(iter(lines_of(found.error.fix)), ""), line
        assert line, f"{file}: {before}: {found.error}"
    raise AssertionError(f"{file}: {line}")


def table(folder: Path) -> str:
    """Return the table; files of a set with the same outcome share a line."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for name, files in sets(folder):
        found: dict[Outcome, int] = {}
        for file in files:
            result = outcome(file)
            found[result] = found.get(result, 0) + 1
        for each, count in sorted(found.items(), key=lambda pair: (-pair[1], pair[0].said)):
            cells = (
                name,
                str(count),
                each.columns,
                each.said,
                f"`{each.recipe}`" if "{" in each.recipe else each.recipe,
            )
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def with_table(page: str, text: str) -> str:
    """Return the page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    made = table(Path(os.environ["TUNER_TEST_DATA"]))
    PAGE.write_text(with_table(PAGE.read_text("utf-8"), made), "utf-8")
