"""The folder for what is downloaded or converted once."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `TUNER_CACHE`, else `~/.cache/tuner`."""
    return Path(os.environ.get("TUNER_CACHE") or Path.home() / ".cache" / "tuner")
