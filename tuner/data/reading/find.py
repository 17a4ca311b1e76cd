"""Where a file of a recipe is; what to do about a name that is none, or a kind that is not read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from glob import glob
from pathlib import Path

from tuner.data.reading import documents
from tuner.data.reading.read import READERS
from tuner.errors import DataError

_LISTED = 5
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
_URL = re.compile(r"[a-z][a-z0-9+]*://")


def find(name: str, folder: Path, what: str) -> Path:
    """Find the file, or the folder of documents, that a recipe names: in the recipe's folder, else
    in the current one.

    Raises:
        DataError: it is in neither; names both places and files with a similar name, or says how to
            come from what the name means to a file.
    """
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() else [folder / path, Path.cwd() / path]
    for place in places:
        if place.is_file():
            return place
    if _URL.match(name):
        raise DataError(
            f"{what}: '{name}' is an address, and files are read from disk only",
            fix="download it, and name the file",
        )
    for place in places:
        if place.is_dir():
            if what != "data.template" and documents.only_documents(place):
                return place
            held = [name.rstrip("/") + "/" + file.name for file in sorted(place.iterdir())]
            raise DataError(
                f"{what}: '{name}' is a folder",
                "it holds documents and files with rows" if documents.documents(place) else "",
                _named(held) or "name a file with rows",
            )
    if set(name) & set("*?["):
        matching = sorted({*glob(name, root_dir=folder), *glob(name)})
        raise DataError(
            f"{what}: '{name}' is a pattern, and files are named one by one",
            "" if matching else "no file fits it",
            _named(matching) or "name the files",
        )
    raise _nowhere(name, places, what)


def _named(files: Sequence[str]) -> str:
    """The line of a recipe that names the files that can be read."""
    rows = [name for name in files if Path(name).suffix.lower() in READERS]
    more = f" (and {len(rows) - _LISTED} more)" if len(rows) > _LISTED else ""
    return f"name its files: train: [{', '.join(rows[:_LISTED])}]{more}" if rows else ""


def _nowhere(name: str, places: Sequence[Path], what: str) -> DataError:
    places = list({place.absolute(): place for place in reversed(places)}.values())[::-1]
    near = [
        str(place.parent / close)
        for place in places
        if place.parent.is_dir()
        for close in get_close_matches(place.name, [p.name for p in place.parent.iterdir()])
    ]
    tried = " nor ".join(map(str, places))
    fix = f"did you mean {', '.join(near)}?" if near else "check the path"
    known = Path(name).suffix.lower() in READERS
    if not near and what != "data.template" and _HUB.fullmatch(name) and not known:
        local = name.rpartition("/")[2]
        fix = (
            f"if '{name}' is a data set of the Hugging Face Hub, download it and name a file of "
            f"it: hf download {name} --repo-type dataset --local-dir {local}"
        )
    return DataError(
        f"{what}: there is no file '{name}'",
        f"found neither {tried}" if " nor " in tried else f"not found: {tried}",
        fix,
    )
