"""How names are compared, and suggestions for misspelt ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_MOST = 4
_BETWEEN = re.compile(r"[\s_.-]+")


def plain(name: str) -> str:
    """Return a name without its case, spaces, and the marks between its words."""
    return _BETWEEN.sub("", name.casefold())


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word nearest to a misspelt one, or None; hyphens and case do not count."""
    names = {plain(name): name for name in known}
    match = [name for name in names if _one_letter_off(plain(word), name)]
    match = match or difflib.get_close_matches(plain(word), names, n=1, cutoff=0.6)
    return names[match[0]] if match else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'`, or the known words if none is near.

    Where the word begins several known ones, or is one letter off each, name all of these.
    """
    known = list(known)
    begun = [f"'{name}'" for name in known if plain(name).startswith(plain(word))]
    off = [f"'{name}'" for name in known if _one_letter_off(plain(word), plain(name))]
    for several in (begun, off):
        if 1 < len(several) <= _MOST and word:
            return f"did you mean {listed(several, 'or')}"
    near = nearest(word, known)
    return f"did you mean '{near}'" if near else f"known here: {', '.join(known)}"


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return names as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _one_letter_off(word: str, name: str) -> bool:
    """Return whether exactly one letter differs; `deviceq` is no slip for `device`."""
    same_length = len(word) == len(name) > 2
    return same_length and sum(a != b for a, b in zip(word, name, strict=True)) == 1
