"""Runs the command in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from tuner import cli

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def tuner(*arguments: str, cwd: Path, **environment: str) -> Done:
    """Run the command in this process, as `main` would, with streams of its own."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, environment),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(list(arguments))
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def process(*arguments: str, cwd: Path, **environment: str) -> Done:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def params(command: str) -> dict[str, Any]:
    group = typer.main.get_command(cli.app)
    return {each.name: each for each in group.commands[command].params}  # type: ignore[attr-defined]
