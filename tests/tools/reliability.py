"""Check tests/RELIABILITY.md against the tests: `python -m tests.tools.reliability`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
CATALOGUE = TESTS / "RELIABILITY.md"
NO_TEST = "no test"
_ID = re.compile(r"\b(?:[CDEGHIMNR]\d\d|G0)\b")
_RANGE = re.compile(r"\b([CDEGHIMNR])(\d\d) to \1(\d\d)\b")
_ROW = re.compile(r"^\| *([^ |]+) *\|.*\|([^|]*)\|$")


@dataclass(frozen=True)
class Mention:
    """A function, class or module of the tests and the ids in its name and docstring."""

    place: str  # file::name
    test: bool
    ids: frozenset[str]


def ids_in(text: str) -> frozenset[str]:
    """Return the ids that a text mentions; `D01 to D03` is three."""
    found = set(_ID.findall(text))
    for letter, first, last in _RANGE.findall(text):
        found |= {f"{letter}{number:02}" for number in range(int(first), int(last) + 1)}
    return frozenset(found)


def mentions(folder: Path) -> Iterator[Mention]:
    """Yield what the test files define, also what mentions no id."""
    for path in sorted(folder.rglob("test_*.py")):
        file = path.relative_to(folder).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                name = getattr(node, "name", "")
                text = f"{name.upper().replace('_', ' ')}\n{ast.get_docstring(node) or ''}"
                yield Mention(f"{file}::{name}", name.startswith("test_"), ids_in(text))


def rows(text: str) -> list[tuple[str, list[str]]]:
    """Return the id of every row with its tests, or with `no test` alone."""
    found = []
    for line in text.splitlines():
        if (match := _ROW.match(line)) and _ID.fullmatch(match[1]):
            tests = re.findall(r"`([^`]+)`", match[2])
            found.append((match[1], tests or [match[2].strip()]))
    return found


def problems(catalogue: str, folder: Path) -> list[str]:
    """Return where the catalogue and the tests disagree."""
    table, found = rows(catalogue), list(mentions(folder))
    known = dict(table)
    tests = {item.place for item in found if item.test}
    said = [f"{name}: has two rows" for name in known if [n for n, _ in table].count(name) > 1]
    for name, listed in table:
        if listed == [NO_TEST]:
            continue
        said += [f"{name}: there is no test {test!r}" for test in listed if test not in tests]
    for item in found:
        name = item.place.partition("::test_")[2]
        if item.test and ids_in(name.partition("_")[0].upper()):
            said.append(f"{item.place}: begins with an id; say what it checks")
        for each in sorted(item.ids):
            if each not in known:
                said.append(f"{item.place}: {each} has no row")
            elif item.test and item.place not in known[each]:
                said.append(f"{each}: its row does not name {item.place}")
    return said


def missing(text: str, folder: Path) -> list[str]:
    """Return the tests that a text names and that do not exist."""
    tests = {item.place for item in mentions(folder) if item.test}
    return sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", text)) - tests)


def main() -> int:
    """Print the disagreements; 1 if there are any."""
    found = problems(CATALOGUE.read_text("utf-8"), TESTS)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
