"""The house: how long files and functions are, and that a room is what its name says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
LONGEST_TEST_FILE = 500
# The options of a command are its signature, which typer reads.
COMMANDS = "tuner/cli/"


def sources() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "tuner").rglob("*.py")):
        yield file.relative_to(ROOT).as_posix(), file.read_text("utf-8")


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_file_and_no_function_is_too_long_to_read() -> None:
    """A function's docstring does not count, nor the options of a command."""
    long = [name for name, text in sources() if len(text.splitlines()) > LONGEST_FILE]
    for name, text in sources():
        for node in functions(text):
            lines = (node.end_lineno or 0) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or 0) - first.lineno + 1
            if name.startswith(COMMANDS):
                lines = (node.end_lineno or 0) - first.lineno + 1
            if lines > LONGEST_FUNCTION:
                long.append(f"{name}: {node.name}, {lines} lines")
    assert long == []


def test_no_test_file_is_too_long_to_read() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    long = [file for file in files if len(file.read_text("utf-8").splitlines()) > LONGEST_TEST_FILE]
    assert [file.relative_to(ROOT).as_posix() for file in long] == []


def test_the_package_has_no_more_rooms_than_a_reader_can_hold() -> None:
    entries = [path.name for path in (ROOT / "tuner").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 20, sorted(entries)


def test_every_room_says_what_it_is_for() -> None:
    """Its first line stands in CONTRIBUTING.md, where a newcomer looks for it."""
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for folder in sorted((ROOT / "tuner").iterdir()):
        if (folder / "__init__.py").is_file():
            text = (folder / "__init__.py").read_text("utf-8")
            assert ast.get_docstring(ast.parse(text)), folder
            assert f"`{folder.name}/`" in guide, folder.name
