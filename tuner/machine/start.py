"""Entry point of child processes: `python -P start.py MODULE ARGUMENTS`.

It uses the package that it is part of, whatever is installed or on the search path: a child runs
the code of its parent, even from a checkout that is not installed.
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location


def main() -> None:
    """Run the module that the command line names, with the arguments after it."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = spec_from_file_location(
        "tuner", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["tuner"] = package
    spec.loader.exec_module(package)
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
