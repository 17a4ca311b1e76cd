"""Columns that a recipe joins into one text: `columns: {text: title + body}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuner.data.bad_rows import Unreadable
from tuner.data.fields.values import written

_PLUS = re.compile(r"\s+\+\s+")


def parts(name: str) -> list[str]:
    """Return the columns that a recipe joins; none, if it names a single one."""
    found = _PLUS.split(name.strip())
    return found if len(found) > 1 and all(found) else []


def together(names: Iterable[str]) -> str:
    """Return columns as a recipe joins them."""
    return " + ".join(names)


def text_of(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return what columns hold as one text, an empty line between them; what is blank in a row is
    left out, and a value that cannot be read takes the place of all."""
    found = [values.get(name) for name in names]
    unreadable = next((each for each in found if isinstance(each, Unreadable)), None)
    if unreadable is not None:
        return unreadable
    return "\n\n".join(text for each in found if (text := written(each)).strip())


def with_texts(
    values: Mapping[str, Any], texts: Mapping[str, Sequence[str]], kept: Iterable[str]
) -> dict[str, Any]:
    """Return a row's values with a text in the place of the columns that it joins.

    Args:
        values: of the row.
        texts: the columns that each text joins.
        kept: columns that are read for themselves too.
    """
    found: dict[str, Any] = {}
    joined = {name for names in texts.values() for name in names}.difference(kept)
    for name, value in values.items():
        for text, names in texts.items():
            if name in names and text not in found:
                found[text] = text_of(values, names)
        if name not in joined:
            found[name] = value
    return found
