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
    "mlflow": ("mlflow-skinny>=3.7", "sqlalchemy>=2.0", "alembic>=1.13"),
    "ray": ("ray[tune]>=2.50",),
    "schedulefree": ("schedulefree>=1.4",),
    "swanlab": ("swanlab>=0.10",),
    "tensorboard": ("tensorboard>=2.18",),
    "torchao": ("torchao>=0.18",),
    "trackio": ("trackio>=0.43",),
    "uvicorn": ("fastapi>=0.132", "uvicorn>=0.34"),
    "wandb": ("wandb>=0.21",),
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
