"""docs/conversations.md, executed: the recipe, and what its model answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
