"""Packages that may be missing, and the commands that install them into this environment.

The commands name the packages themselves, not an extra of this program, so they work however it
was installed: from a checkout, a wheel or an index.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys

# Requirements of each module that may be missing, as in pyproject.toml.
NEEDED_BY: dict[str, tuple[str, ...]] = {
    "bitsandbytes": ("bitsandbytes>=0.46",),
    "compressed_tensors": ("compressed-tensors>=0.15",),
    "llama_cpp": ("llama-cpp-python>=0.3.16",),
    "ray": ("ray[tune]>=2.50",),
    "schedulefree": ("schedulefree>=1.4",),
    "torchao": ("torchao>=0.18",),
    "uvicorn": ("fastapi>=0.132", "uvicorn>=0.34"),
}


def add(module: str) -> str:
    """Return the command that installs what a module needs."""
    return install(*NEEDED_BY[module])


def install(*arguments: str) -> str:
    """Return the command that installs packages into this interpreter's environment.

    Args:
        arguments: requirements and options, as pip takes them.
    """
    if importlib.util.find_spec("pip") is None:
        # Environments made by uv have no pip.
        return shlex.join(["uv", "pip", "install", "--python", sys.executable, *arguments])
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])
