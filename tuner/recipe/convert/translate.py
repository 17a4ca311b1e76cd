"""A configuration of another tool in, the keys of a recipe out, with a list of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.recipe.convert import dataset_info, fit
from tuner.recipe.convert.conversion import Conversion, Setting
from tuner.recipe.convert.tools import Settings, Tool
from tuner.recipe.other_tools import answer
from tuner.recipe.other_tools.row import Fate, Here, empty
from tuner.recipe.other_tools.sets import source
from tuner.recipe.other_tools.takes import DEVICES

BATCH = "train.batch_size"
_SETS = ("dataset", "datasets", "train_dataset", "pretraining_dataset")


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
    fit.leave_out(made)
    fit.refuse(made)
    if tool.remark:
        made.unset.insert(0, tool.remark)
    if "assumed" in (parts := made.remarks.get(BATCH, "")):
        rows = made.keys[BATCH]
        made.unset.insert(0, f"{BATCH}: {rows} is {parts}: for N devices, convert with --devices N")
    return made


def _unknown(tool: Tool) -> Here:
    return Here({}, f"it is not known what this key of {tool.name} does", Fate.LOST)


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
        files = [one["source"] if isinstance(one, dict) else one for one in found]
        made.unset += [_file(one) for one in files if Path(one).suffix in ("", ".yaml", ".yml")]
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
    named = "name a file of its rows in data.train"
    return f"'{path}' is not a file (a data set on a hub, or a folder): {named}"


# Keys of a source that the data section has, too.
_SHARED = {"source", "template", "columns"}
