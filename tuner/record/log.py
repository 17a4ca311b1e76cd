"""The run's log file: keeps the libraries' messages without showing them all."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from tuner.machine import ranks
from tuner.record.run_json import LOG

LIBRARIES = ("transformers", "accelerate", "peft", "trl", "datasets")


class _Once(logging.Filter):
    """Lets a record through once, however many loggers lead to the handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        seen = record.__dict__.get("in_run_log", False)
        record.__dict__["in_run_log"] = True
        return not seen


def file_in(folder: Path) -> Path:
    """Return the log file in a run's folder; only the first process writes it."""
    return folder / LOG if ranks.place().main else Path(os.devnull)


@contextlib.contextmanager
def log_to(path: Path, level: int = logging.INFO) -> Iterator[None]:
    """Write Python's logging and warnings to a file as well, while the context lasts."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setLevel(level)
    handler.addFilter(_Once())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Some libraries do not pass their records on to the root logger.
    loggers = [logging.getLogger(name) for name in (None, "tuner", *LIBRARIES)]
    ours = logging.getLogger("tuner")
    level_before = ours.level
    ours.setLevel(level)
    for logger in loggers:
        logger.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)
        ours.setLevel(level_before)
        handler.close()
