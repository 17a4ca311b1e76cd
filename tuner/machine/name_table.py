"""The table of transformers' names, kept from one start to the next.

When it is imported, transformers reads its 3,300 files twice to learn which of them has which
name: two thirds of a second on a processor. An installed release never changes, so its table is
kept in the cache (`TUNER_CACHE/names`). A checkout that is being worked on is read each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from tuner.machine.cache import cache_folder

_MODULE = "transformers.utils.import_utils"
# By the packages that its names need: the names of each module.
Table = dict[frozenset[str], dict[str, set[str]]]
Reading = Callable[..., Table]


def keep() -> None:
    """Keep the table from now on; does nothing once transformers is imported."""
    if _MODULE not in sys.modules and not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module whose function reads the table."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        found = PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None or type(found.loader) is not SourceFileLoader:
            return found
        loader = _Loader(fullname, found.origin)
        return importlib.util.spec_from_file_location(fullname, found.origin, loader=loader)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        package = Path(self.path).parents[1]
        read = getattr(module, "define_import_structure", None)
        if read is not None and (file := table_file(package)) is not None:
            module.define_import_structure = kept(read, package / "models", file)  # type: ignore[attr-defined]


def table_file(package: Path) -> Path | None:
    """Return where the table of an installed package is kept; None: its files may change.

    Args:
        package: its folder. Next to it, an installed release has a folder with the list of its
            files, which every installation writes.
    """
    records = list(package.parent.glob(f"{package.name}-*.dist-info/RECORD"))
    if len(records) != 1:
        return None
    try:
        state = records[0].stat()
    except OSError:
        return None
    key = f"{records[0].resolve()} {state.st_mtime_ns} {state.st_size} {state.st_ino}"
    name = f"{records[0].parent.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    return cache_folder() / "names" / name


def kept(read: Reading, models: Path, file: Path) -> Reading:
    """Return a function like `read` that reads the table of `models` once and keeps it.

    Args:
        read: called with a folder, or a file in it, and what precedes the modules' names.
        models: the folder whose table is kept.
        file: where it is kept, if that can be written.
    """

    def table(module_path: Any, prefix: str | None = None) -> Table:
        folder = Path(module_path)
        if (folder.parent if folder.suffix else folder) != models:
            return read(module_path, prefix)
        found = _load(file)
        if found is None:
            found = read(str(models))
            _save(file, found)
        return {
            needs: {f"{prefix}.{name}" if prefix else name: names for name, names in each.items()}
            for needs, each in found.items()
        }

    return table


def _load(file: Path) -> Table | None:
    try:
        pairs = json.loads(file.read_text("utf-8"))
        found = {
            frozenset(needs): {str(name): set(names) for name, names in modules.items()}
            for needs, modules in pairs
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return found or None


def _save(file: Path, table: Mapping[frozenset[str], Mapping[str, set[str]]]) -> None:
    """Write the table under its name when it is complete; without a cache there is none."""
    import tempfile  # Seldom needed, and the program is to answer `--help` at once.

    text = json.dumps(
        [
            [sorted(needs), {name: sorted(names) for name, names in modules.items()}]
            for needs, modules in table.items()
        ]
    )
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        fd, staged = tempfile.mkstemp(dir=file.parent, prefix=".")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as out:
                out.write(text)
            os.replace(staged, file)
        except OSError:
            os.unlink(staged)
            raise
