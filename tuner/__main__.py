"""The program: `tuner`, and `python -m tuner`.

Before anything else is imported it takes the current folder off the search path, where `python -m`
and empty or relative entries of PYTHONPATH put it: a file there may have any module's name.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def leave_folder() -> None:
    """Take the current folder, and what is named from there, off the search path."""
    try:
        here = os.getcwd()
    except OSError:
        return
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", here):
        del sys.path[0]
    given = os.environ.get("PYTHONPATH", "")
    entries = given.split(os.pathsep) if given and not sys.flags.ignore_environment else []
    for entry in entries:
        # Python has made them absolute.
        place = os.path.abspath(entry)
        if not os.path.isabs(entry) and place not in entries and place in sys.path:
            sys.path.remove(place)


def main() -> NoReturn:
    """The `tuner` command: run it and exit with its code."""
    leave_folder()
    from tuner.machine import processes

    processes.make_safe(os.environ)
    from tuner import cli

    cli.main()


if __name__ == "__main__":
    main()
