"""`python -m tuner.cli.converter [ARCHIVE]`: put llama.cpp's converter into the cache."""

from __future__ import annotations

import sys
from pathlib import Path

from tuner.console.console import Console
from tuner.errors import TunerError
from tuner.machine import converter


def main() -> None:
    """Fetch the converter, or take it from the named archive."""
    console = Console()
    try:
        place = converter.fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except TunerError as error:
        console.error(error)
        sys.exit(error.exit_code)
    console.text(f"llama.cpp's converter is in {place}")


if __name__ == "__main__":
    main()
