"""Write a recipe back as YAML: whole, with absolute paths."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tuner.recipe import history, paths
from tuner.recipe.load import LoadedRecipe
from tuner.recipe.schema import Recipe

# What a recipe says of trackers, where it says nothing.
_UNTRACKED = {"track": (), "name": None, "project": "tuner", "tags": ()}


def meaning(loaded: LoadedRecipe) -> str:
    """Return all of a recipe that a run depends on, except its files: not where it runs."""
    elsewhere = {"output": None, "price_per_hour": None, **_UNTRACKED}
    run = loaded.recipe.run.model_copy(update=elsewhere)
    sections = _sections(loaded.recipe.model_copy(update={"run": run}))
    values = history.in_first_version_form(sections, loaded.origins)
    return f"{loaded.verb}\n{_as_yaml(values)}"


def dump(recipe: Recipe, folder: Path | None = None) -> str:
    """Return the whole recipe as YAML that loads back to an equal one.

    With `folder`, data files, bases and adapters in it are written with their absolute path, so
    that the text means the same wherever it is stored.
    """
    from tuner.recipe.aliases import ALIASES

    values = _sections(recipe)
    if folder is None:
        return _as_yaml(values)
    for each in paths.named(recipe):
        if not (each.kind == "base" and each.text in ALIASES):
            paths.put(values, each.key, each.map(partial(_absolute, folder)))
    return _as_yaml(values)


def _sections(recipe: Recipe) -> dict[str, Any]:
    dumped = recipe.model_dump(mode="json")
    return {section: keys for section, keys in dumped.items() if keys is not None}


def _as_yaml(values: dict[str, Any]) -> str:
    return yaml.dump(
        _quoted(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20
    )


class _Quoted(str):
    """Text that the dump puts in quotes, so that it stays text whatever it looks like."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Quoted,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"'),
)


def _quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return _Quoted(value) if isinstance(value, str) else value


def _absolute(folder: Path, text: str) -> str:
    return str((folder / text).resolve()) if (folder / text).exists() else text
