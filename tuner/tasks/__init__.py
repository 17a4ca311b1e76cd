"""TASKS: what is optimised. One file a task, one row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tuner.tasks import sft

TASKS: dict[str, Callable[..., Any]] = {"sft": sft.trainer}
