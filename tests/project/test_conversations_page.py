"""docs/conversations.md, executed: the recipe, and what its model answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import tuner
from tuner.cli import data
from tuner.console.console import Console

ROOT = Path(__file__).parents[2]
# What it says of tools is tried with a server: inference/test_tools.py.
PAGE = (ROOT / "docs/conversations.md").read_text("utf-8").partition("\n## Tools\n")[0]


@pytest.mark.slow
def test_the_transcripts_are_what_the_commands_print(tmp_path: Path) -> None:
    """On the real base: it reasons and stops; asked not to, it answers at once."""
    train, *asked = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    shown = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "tuner").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tuner "$@"\n')
    (folder / "tuner").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def run(line: str) -> str:
        done = subprocess.run(
            ["sh", "-euc", line], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "done in" in run(train)
    assert len(asked) == len(shown) == 2
    for line, text in zip(asked, shown, strict=True):
        assert run(line).strip() == text.strip()


def test_the_row_of_the_page_is_in_the_sample() -> None:
    """What the page shows of the data is a row of the recipe's."""
    (row,) = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)
    assert row in (ROOT / "recipes/samples/reasoning-train.jsonl").read_text("utf-8").splitlines()


def test_the_mix_of_the_page_is_planned_as_it_says(
    tmp_path: Path, bases: Callable[[str], Path]
) -> None:
    """The sources' lines do not depend on the base."""
    recipe, _ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    shown, _ = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    shutil.copytree(ROOT / "recipes/samples", tmp_path / "samples")
    (tmp_path / "mix.yaml").write_text(recipe, "utf-8")
    done = tuner("plan", "mix.yaml", "--set", f"model.base={bases('llama')}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines(keepends=True)
    start = next(place for place, line in enumerate(lines) if line.startswith("source "))
    assert "".join(lines[start : start + len(shown.splitlines())]) == shown
    count = len([line for line in lines if line.startswith("source ")])
    assert count == shown.count("source ")


def test_each_case_is_previewed_as_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last example of each row, whole."""
    (rows,) = re.findall(r"```jsonl\n(.*?)```", PAGE, re.DOTALL)
    _, recipe = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    _, shown = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    ((name, count),) = re.findall(r"`tuner data preview (\S+) -n (\d)`", PAGE)
    (tmp_path / "chats.jsonl").write_text(rows, "utf-8")
    (tmp_path / "chats.yaml").write_text(recipe, "utf-8")
    monkeypatch.chdir(tmp_path)
    data.preview(name, (), int(count), Console())
    printed = capsys.readouterr().out
    found = ["\n".join(map(str.rstrip, each.splitlines())) for each in _blocks(printed)]
    last = {each.split(" ")[0]: each for each in found}
    assert [each.rstrip() for each in _blocks(shown)] == [each.rstrip() for each in last.values()]
    assert len(last) == len(rows.splitlines()) == int(count)


def _blocks(text: str) -> list[str]:
    return re.split(r"^(?=chats\.jsonl)", text, flags=re.MULTILINE)[1:]
