"""Recipes and data templates that come with the program, in a wheel as in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["recipes", "data_templates"]


def folder(kind: Kind) -> Path:
    """Return the folder of the bundled files: package data if installed, else the checkout's."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_bundled" / kind
    return installed if installed.is_dir() else package.parent / kind


def files(kind: Kind) -> dict[str, Path]:
    """Return the bundled YAML files by name (without the suffix), sorted by name."""
    return {file.stem: file for file in sorted(folder(kind).glob("*.yaml"))}


def opening(file: Path) -> str:
    """Return the comment that a YAML file begins with, up to its command; empty if it has none."""
    said = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#") or line.startswith("#   "):
            break
        said.append(line.removeprefix("#").strip())
    return " ".join(said)
