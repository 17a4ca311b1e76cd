"""Several columns that a recipe reads as one text: `columns: {text: title + body}`, and the name of
the one that is set: `columns: {label: billing | delivery}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuner.data.bad_rows import BadRow, Unreadable
from tuner.data.fields.values import written
from tuner.schema.suggest import listed

_PLUS, _BAR = re.compile(r"\s+\+\s+"), re.compile(r"\s+\|\s+")
_SET = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


def parts(name: str) -> list[str]:
    """Return the columns that a recipe joins; none, if it names a single one."""
    for between in (_BAR, _PLUS):
        found = between.split(name.strip())
        if len(found) > 1 and all(found):
            return found
    return []


def together(names: Iterable[str]) -> str:
    """Return columns as a recipe joins them."""
    return " + ".join(names)


def one_of(names: Iterable[str]) -> str:
    """Return columns of which one is set in each row, as a recipe reads its name."""
    return " | ".join(names)


def is_set(value: Any) -> bool | None:
    """Return whether the cell of a column that is 0 or 1 is set; None: it is neither."""
    if value is None:
        return False
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _SET.get(value.strip().casefold()) if isinstance(value, str) else None


def set_one(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the name of the one column that is set in a row.

    Raises:
        BadRow: none is, or several are, or one is neither set nor not.
    """
    found = set_any(values, names)
    if len(found) != 1:
        which = f"{listed([repr(name) for name in found])} are" if found else "none is"
        fix = " (any number: data.multi_label: true)" if found else ""
        raise BadRow(f"of {listed(list(names))} one must be 1, and {which}{fix}")
    return found[0]


def set_any(values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the names of the columns that are set in a row.

    Raises:
        BadRow: one is neither set nor not.
    """
    for name in names:
        if is_set(values.get(name)) is None:
            raise BadRow(f"'{name}' is neither 0 nor 1: {written(values[name])!r}")
    return [name for name in names if is_set(values.get(name))]


def text_of(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return what columns hold as one text, an empty line between them; what is blank in a row is
    left out, and a value that cannot be read takes the place of all."""
    found = [values.get(name) for name in names]
    unreadable = next((each for each in found if isinstance(each, Unreadable)), None)
    if unreadable is not None:
        return unreadable
    return "\n\n".join(text for each in found if (text := written(each)).strip())


def with_texts(
    values: Mapping[str, Any],
    texts: Mapping[str, Sequence[str]],
    kept: Iterable[str],
    several: bool = False,
) -> dict[str, Any]:
    """Return a row's values with a text in the place of the columns that it joins.

    Args:
        values: of the row.
        texts: the columns that each text joins.
        kept: columns that are read for themselves too.
        several: whether any number of columns may be set where one is read by its name.
    """
    found: dict[str, Any] = {}
    joined = {name for names in texts.values() for name in names}.difference(kept)
    for name, value in values.items():
        for text, names in texts.items():
            if name in names and text not in found:
                named = set_any if several else set_one
                of = named if _BAR.search(text) else text_of
                found[text] = of(values, names)
        if name not in joined:
            found[name] = value
    return found
