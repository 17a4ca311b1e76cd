"""Write a recipe back as YAML: whole, with absolute paths."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from tuner.recipe import history
from tuner.recipe.load import LoadedRecipe
from tuner.recipe.schema import Recipe


def content_sha256(loaded: LoadedRecipe) -> str:
    """What a run of the recipe depends on: every resolved key but where it runs, and its data.

    Paths count as they are written and data files by what they hold, so that a project may move.
    """
    recipe, elsewhere = loaded.recipe, {"output": None, "price_per_hour": None}
    own = recipe.model_copy(update={"run": recipe.run.model_copy(update=elsewhere)})
    values = history.as_then(_sections(own))
    digest = hashlib.sha256(f"{loaded.verb}\n{_as_yaml(values)}".encode())
    for name in (*recipe.data.train, recipe.data.eval, recipe.data.template):
        # As `data.load.find` looks for them.
        path = Path(str(name)).expanduser()
        if file := next((each for each in (loaded.folder / path, path) if each.is_file()), None):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def dump(recipe: Recipe, folder: Path | None = None) -> str:
    """The whole recipe as YAML that loads back to an equal one.

    With `folder`, data files, bases and adapters that lie there are written with their absolute
    path, so that the text means the same wherever it is stored.
    """
    from tuner.recipe.aliases import ALIASES

    values = _sections(recipe)
    if folder is not None:
        values["data"]["train"] = [_absolute(file, folder) for file in values["data"]["train"]]
        values["data"]["eval"] = _absolute(values["data"]["eval"], folder)
        values["data"]["template"] = _absolute(values["data"]["template"], folder)
        if values["model"]["base"] not in ALIASES:
            values["model"]["base"] = _absolute(values["model"]["base"], folder)
        if values["method"].get("source"):
            values["method"]["source"] = _absolute(values["method"]["source"], folder)
        if values.get("rlhf"):
            _absolute_rlhf(values, folder)
    return _as_yaml(values)


def _sections(recipe: Recipe) -> dict[str, Any]:
    dumped = recipe.model_dump(mode="json")
    return {section: keys for section, keys in dumped.items() if keys is not None}


def _as_yaml(values: dict[str, Any]) -> str:
    return yaml.dump(
        _quoted(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20
    )


def _absolute_rlhf(values: dict[str, Any], folder: Path) -> None:
    rlhf = values["rlhf"]
    rlhf["policy"] = _absolute(rlhf["policy"], folder)
    for part in rlhf["reward"]:
        if "model" in part:
            part["model"] = _absolute(part["model"], folder)
        if "function" in part:
            file, _, name = part["function"].rpartition(":")
            part["function"] = f"{_absolute(file, folder)}:{name}"
    if "ppo" in values:
        values["ppo"]["ptx_data"] = _absolute(values["ppo"]["ptx_data"], folder)


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


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, str) and (folder / value).exists():
        return str((folder / value).resolve())
    return value
