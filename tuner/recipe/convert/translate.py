"""A configuration of another tool in, the keys of a recipe out, with a list of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.methods import METHODS
from tuner.recipe.convert import dataset_info
from tuner.recipe.convert.tools import Settings, Tool
from tuner.recipe.other_tools import answer
from tuner.recipe.other_tools.row import Fate, Here, empty
from tuner.recipe.other_tools.sets import source
from tuner.recipe.other_tools.takes import DEVICES
from tuner.recipe.schema import keys_of

BATCH = "train.batch_size"
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
                if here.said and key == next(iter(here.keys)):
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
    for name, value in whole.items():
        if name not in (*_SETS, DEVICES):
            here = answer.take(name, value, whole) or _unknown(tool)
            made.put(name, value, here, default=name in defaults)
    _rows(made, given, folder)
    _fit(made)
    _refuse(made)
    if tool.remark:
        made.unset.insert(0, tool.remark)
    if "assumed" in (parts := made.remarks.get(BATCH, "")):
        rows = made.keys[BATCH]
        made.unset.insert(0, f"{BATCH}: {rows} is {parts}: for N devices, convert with --devices N")
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
        made.unset += [_file(each) for each in items if str(each).endswith((".yaml", ".yml"))]
    for each in value if isinstance(value, list) else [value] if not items else []:
        found, notes = source(each) if isinstance(each, Mapping) else ([str(each)], [])
        path = each.get("path") if isinstance(each, Mapping) else each
        made.lost += [Setting(name, str(path), note) for note in notes]
        items += found
        rows_there = Path(str(path)).suffix not in ("", ".yaml", ".yml")
        made.unset += [] if rows_there else [_file(str(path))]
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
    if path.endswith((".yaml", ".yml")):
        return f"{path} lists data sets: name their files in data.train"
    return f"'{path}' is on a hub or a folder: download it, and name its file in data.train"


# Keys of a source that the data section has, too.
_SHARED = {"source", "template", "columns"}


def _fit(made: Conversion) -> None:
    """Leave out keys that the method or the task does not have."""
    method = str(made.keys.get("method.name", "lora"))
    task, algorithm = _task(made.keys), made.keys.get("rlhf.algorithm")
    for key in list(made.keys):
        section, dot, name = key.partition(".")
        why = ""
        if section == "method" and name not in keys_of("method", method):
            why = f"{method} has no such option"
        elif task != "sft" and key in _SUPERVISED:
            why = "preferences are never cut, and their answers are learned"
        elif task != "sft" and key == "data.template":
            why = "the columns decide"
        elif key == "run.strategy" and not METHODS[method].adapter:
            why = f"fsdp shards a frozen base, and {method} trains it"
        elif dot and (section, task) in (("rlhf", "sft"), ("rlhf", "reward"), ("reward", "sft")):
            why = "nothing learns from preferences"
        elif section == "ppo" and algorithm != "ppo":
            why = "it is of PPO"
        if why:
            value = made.keys.pop(key)
            if key not in made.defaults:
                origin = made.origins.get(key, key)
                made.left_out.append(Setting(origin, shown(origin, value), why))


def _refuse(made: Conversion) -> None:
    """Block what no recipe can train: a method that the task or a quantized base does not take."""
    method = METHODS[str(made.keys.get("method.name", "lora"))]
    if "rlhf.algorithm" in made.keys and not method.rlhf:
        said = f"it is not trained with {method.name} here, only with an adapter such as lora"
        origin = made.origins["rlhf.algorithm"]
        made.blocked.append(Setting(origin, shown(origin, made.keys["rlhf.algorithm"]), said))
    quantize = made.keys.get("model.quantize", "none")
    if quantize != "none" and quantize not in method.quantized:
        said = f"{method.name} does not train on a base with model.quantize: {quantize}"
        made.blocked.append(Setting(made.origins["model.quantize"], str(quantize), said))


def _task(keys: Mapping[str, Any]) -> str:
    return "reward" if "reward" in keys else "rlhf" if "rlhf.algorithm" in keys else "sft"
