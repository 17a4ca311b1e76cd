"""Typer's help, rendered without the half of rich that it does not need.

`typer.rich_utils` imports rich's Markdown and tracebacks, which bring a Markdown parser and a
syntax highlighter: more time than all the rest of `tuner --help`. Our texts are not Markdown and
our errors end in `cli`, so empty modules replace both while that module is imported.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Sequence
from typing import Any

from tuner.cli.options import COMPLETE

_UNUSED = ("rich.markdown", "rich.traceback")


class _StandIn(types.ModuleType):
    """A module whose names are empty classes: they only appear in annotations."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def prepare(arguments: Sequence[str]) -> None:
    """Import what renders the help, if these arguments or a shell's completion need it."""
    # A group without a command also shows its help.
    asked = len(arguments) < 2 or "--help" in arguments or "-h" in arguments
    if asked or COMPLETE in os.environ:
        _import_light()


def _import_light() -> None:
    absent = [name for name in _UNUSED if name not in sys.modules]
    for name in absent:
        sys.modules[name] = _StandIn(name)
    try:
        import typer.rich_utils  # noqa: F401
    finally:
        for name in absent:
            del sys.modules[name]
