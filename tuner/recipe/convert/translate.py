"""A configuration of another tool in, the keys of a recipe out, with a list of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.recipe.convert import dataset_info
from tuner.recipe.convert.tools import Settings, Tool
from tuner.recipe.other_tools import answer
from tuner.recipe.other_tools.row import Fate, Here, empty
from tuner.recipe.other_tools.sets import source
from tuner.recipe.other_tools.takes import DEVICES
from tuner.recipe.schema import keys_of

_SETS = ("dataset", "datasets", "train_dataset", "pretraining_dataset")
# Keys that only supervised rows have.
_SUPERVISED = ("data.cut", "data.long", "data.learn")


@dataclass(frozen=True)
class Setting:
    """A setting that has no key in the recipe.

    Attributes:
        name: the other tool's key.
        value: as YAML has it on a line; empty: it is not shown.
        said: why.
    """

    name: str
    value: str
    said: str


@dataclass
class Conversion:
    """What a configuration comes to.

    Attributes:
        keys: of the recipe, as `section.key`.
        origins: of each key, the other tool's key.
        remarks: on keys, how their values convert.
        defaults: keys that have the other tool's default.
        lost: settings without which the trained model differs.
        left_out: settings that it does not depend on.
        blocked: settings for which there is no recipe.
        unset: what the recipe cannot know: files of rows that are named in another way there.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    defaults: list[str] = field(default_factory=list)
    lost: list[Setting] = field(default_factory=list)
    left_out: list[Setting] = field(default_factory=list)
    blocked: list[Setting] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any, here: Here, default: bool = False) -> None:
        """Take up what a setting comes to."""
        if here.fate is not Fate.KEPT:
            lists = {Fate.LOST: self.lost, Fate.LEFT_OUT: self.left_out}
            if not default:
                lists.get(here.fate, self.blocked).append(
                    Setting(name, shown(name, value), here.said)
                )
            return
        for key, meant in here.keys.items():
            if key in self.keys and self.keys[key] != meant:
                first = self.origins[key]
                said = f"{first} says {key}: {answer.flow(self.keys[key])}"
                self.lost.append(Setting(name, shown(name, value), said))
                continue
            if key not in self.keys:
                self.keys[key], self.origins[key] = meant, name
                if here.said:
                    self.remarks[key] = here.said
                if default:
                    self.defaults.append(key)


def translate(tree: Mapping[str, Any], tool: Tool, folder: Path, devices: int | None) -> Conversion:
    """Return the recipe's keys for a configuration.

    Args:
        tree: the configuration.
        tool: whose it is.
        folder: where its file is.
        devices: on which the other tool trained; None: not known.
    """
    given: Settings = {name: value for name, value in tree.items() if not empty(value)}
    given = {n: value for n, value in tool.flat(given).items() if not empty(value)}
    defaults = {n: v for n, v in tool.defaults(given).items() if n not in given}
    whole: Settings = {**given, **defaults, **({DEVICES: devices} if devices else {})}
    made = Conversion()
    for name, value in given.items():
        if name not in _SETS:
            made.put(name, value, answer.take(name, value, whole) or _unknown(tool))
    for name, value in defaults.items():
        made.put(name, value, answer.take(name, value, whole) or Here(), default=True)
    _rows(made, given, folder)
    _fit(made)
    return made


def _unknown(tool: Tool) -> Here:
    return Here({}, f"it is not known what this key of {tool.name} does", Fate.LOST)


def shown(name: str, value: Any) -> str:
    """Return a value for a list of settings; nothing where it may be a secret, or is long."""
    text = answer.flow(value)
    hidden = any(word in name for word in ("token", "key", "secret", "password", "webhook"))
    return "" if hidden or len(text) > 40 else text


def _rows(made: Conversion, given: Mapping[str, Any], folder: Path) -> None:
    """Put the data sets into data.train."""
    name = next((each for each in _SETS if each in given), None)
    if name is None:
        return
    value, items = given[name], list[Any]()
    if isinstance(value, str):
        items, notes = dataset_info.sources(value, given.get("dataset_dir", "data"), folder)
        made.unset += notes
    for each in value if isinstance(value, list) else [value] if not items else []:
        found, notes = source(each) if isinstance(each, Mapping) else ([str(each)], [])
        path = each.get("path") if isinstance(each, Mapping) else each
        made.lost += [Setting(name, str(path), note) for note in notes]
        items += found
        made.unset += [_file(str(path))] if not Path(str(path)).suffix else []
    rows = made.keys.get("data.max_rows")
    if rows is not None and len(items) > 1:
        # There it is a limit for each file.
        del made.keys["data.max_rows"], made.keys["data.draw"]
        plain = [each if isinstance(each, dict) else {"source": each} for each in items]
        items = [{**each, "rows": rows} for each in plain]
        made.remarks["data.train"] = "rows of each are drawn by run.seed, there the first"
    one = len(items) == 1 and (isinstance(items[0], str) or not set(items[0]) - _SHARED)
    if one and isinstance(items[0], dict):
        for key, item in items[0].items():
            made.keys[f"data.{'train' if key == 'source' else key}"] = item
            made.origins.setdefault(f"data.{key}", name)
    made.keys["data.train"] = made.keys.get("data.train", items[0] if one else items)
    made.origins["data.train"] = name


def _file(path: str) -> str:
    return f"'{path}' is on a hub or a folder: download it, and name its file in data.train"


# Keys of a source that the data section has, too.
_SHARED = {"source", "template", "columns"}


def _fit(made: Conversion) -> None:
    """Leave out keys that the method or the task does not have."""
    method = made.keys.get("method.name", "lora")
    task = _task(made.keys)
    for key in list(made.keys):
        section, _, name = key.partition(".")
        why = ""
        if section == "method" and name not in keys_of("method", str(method)):
            why = f"{method} has no such option"
        elif key in _SUPERVISED and task != "sft":
            why = "preferences are never cut"
        elif key == "data.template" and task != "sft":
            why = "the columns decide"
        if why:
            value = made.keys.pop(key)
            if key not in made.defaults:
                origin = made.origins.get(key, key)
                made.left_out.append(Setting(origin, shown(origin, value), why))


def _task(keys: Mapping[str, Any]) -> str:
    return "reward" if "reward" in keys else "rlhf" if "rlhf.algorithm" in keys else "sft"
