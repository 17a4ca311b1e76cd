"""The table of docs/other-tools.md: the keys of other tools, by what they are in a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuner.recipe.other_tools.row import Given, Row
from tuner.recipe.other_tools.table import TABLE
from tuner.recipe.other_tools.unneeded import UNNEEDED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "other-tools.md"
BEGIN, END = "<!-- names: begin -->", "<!-- names: end -->"


def page() -> str:
    """Return docs/other-tools.md with the table in its place."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    lines = ["| here | other names |", "|---|---|"]
    places = dict.fromkeys(row.place for row in TABLE if row.place)
    for place in places:
        names = " ".join(row.names for row in TABLE if row.place == place)
        others = [name for name in names.split() if name != place.partition(".")[2]]
        if others:
            lines.append(f"| `{place}` | {_listed(others)} |")
    lines += ["", "Without a key here:", "", "| names | why |", "|---|---|"]
    for row in (*TABLE, *UNNEEDED):
        if not row.place:
            lines.append(f"| {_listed(row.names.split())} | {_why(row)} |")
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{rest.partition(END)[2]}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _why(row: Row) -> str:
    return row.take("", Given(row.names.split()[0], "as it is")).said
