"""What an error says of a key or a value that another tool has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.recipe.other_tools.row import Fate, Given, Here, Row, empty
from tuner.recipe.other_tools.table import TABLE
from tuner.recipe.other_tools.unneeded import UNNEEDED
from tuner.recipe.other_tools.words import VALUES
from tuner.schema import strict_yaml
from tuner.schema.strict_yaml import flow

_ROWS: dict[str, Row] = {name: row for row in (*TABLE, *UNNEEDED) for name in row.names.split()}
# In an item of data.train.
_SOURCE = dict.fromkeys(("path", "file", "file_name", "data_files", "name_or_path"), "source")
_SOURCE |= dict.fromkeys(("type", "formatting", "format", "conversation"), "template")
_SOURCE |= dict.fromkeys(("num_samples", "max_samples", "samples", "size", "limit"), "rows")
_SOURCE |= dict.fromkeys(("delimiter", "sep", "column_separator"), "separator")
_SOURCE |= {"system_prompt": "system", "charset": "encoding", "column_mapping": "columns"}
_LONG = 80


def names() -> list[str]:
    """Return the keys of other tools that are known."""
    return list(_ROWS)


def places() -> set[str]:
    """Return the keys of a recipe that rows lead to."""
    return {row.place for row in _ROWS.values() if row.place}


def take(name: str, value: Any, others: Mapping[str, Any]) -> Here | None:
    """Return what a setting of another tool comes to; None: the key is not known."""
    row = _ROWS.get(name.replace("-", "_"))
    return row.take(row.place, Given(name, value, others)) if row else None


def place(word: str) -> str | None:
    """Return the key of a recipe that another tool calls so (`train.epochs`), with the value that a
    switch turned on means (`method.name: dora`); None: not known, or there is none."""
    row = _ROWS.get(word.replace("-", "_"))
    if row is None or not row.place:
        return None
    on, other = (row.take(row.place, Given(word, each)).keys for each in (True, 7))
    fixed = on.get(row.place, True)
    return row.place if fixed is True or on != other else f"{row.place}: {flow(fixed)}"


def key(word: str, value: Any, others: Mapping[str, Any]) -> str | None:
    """Return the message for a key that another tool has; None: not known.

    Args:
        word: the key.
        value: as the recipe's file has it.
        others: the mapping that it is in.
    """
    plain = word.replace("-", "_")
    row = _ROWS.get(plain)
    if row is None:
        return None
    given = strict_yaml.resolve(value)
    if row.place and (empty(given) or (isinstance(given, dict) and "." not in row.place)):
        return f"another tool's name for {row.place}"
    here = row.take(row.place, Given(plain, given, strict_yaml.resolve(dict(others))))
    if here.keys:
        return f"another tool's name for {listed(here.keys)}{_remark(here.said)}"
    if here.fate is Fate.LEFT_OUT:
        meant = f"another tool's name for {row.place}" if row.place else "a key of other tools"
        return f"{meant}; leave it out: {here.said}"
    if row.place:
        return f"another tool's name for {row.place}; {here.said}"
    return f"tuner has no such key: {here.said}; leave it out"


def in_source(word: str, value: Any) -> str | None:
    """Return the message for a key of an item of data.train; None: not known."""
    here = _SOURCE.get(word.replace("-", "_"))
    if here is None:
        return None
    if here == "template" and isinstance(value, str):
        found = VALUES["data.template"]("template", Given(word, str(value).partition(":")[0]))
        return f"another tool's name for {listed(found.keys or {here: str(value)})}"
    return f"another tool's name for {here}"


def value(place: str, given: Any) -> str | None:
    """Return the message for a value that another tool has for a key; None: not known.

    Args:
        place: the key, as `section.key`.
        given: as the recipe's file has it.
    """
    done = instead(place, given)
    shown = flow(list(given) if isinstance(given, tuple) else given)
    return f"'{shown}' is another tool's word; {done}" if done else None


def instead(place: str, given: Any) -> str | None:
    """Return what to write in place of a value that another tool has; None: not known."""
    names = place == "method.target_modules" and isinstance(given, list | tuple)
    if place not in VALUES or not (names or isinstance(given, str)):
        return None
    plain = list(given) if isinstance(given, list | tuple) else given
    here = VALUES[place](place, Given("", strict_yaml.resolve(plain)))
    if here.keys:
        stays = any(name == place or name.startswith(f"{place}.") for name in here.keys)
        leave = "" if stays else f"leave {place} out, and "
        return f"{leave}set {listed(here.keys)}"
    if here.fate is Fate.KEPT:
        return None
    return here.said if here.fate is Fate.BLOCKS else f"leave {place} out: {here.said}"


def listed(keys: Mapping[str, Any]) -> str:
    """Return keys and values as a recipe has them, in a sentence."""
    return " and ".join(_shown(name, item) for name, item in keys.items())


def _shown(name: str, item: Any) -> str:
    text = flow(item)
    return f"{name}: {text}" if len(text) <= _LONG else name


def _remark(said: str) -> str:
    return f" ({said})" if said else ""
