"""LLaMA-Factory's dataset_info.json: which file a data set is, and what its columns are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "dataset_info.json"
_INSTRUCTION = {"prompt": "instruction", "query": "input", "response": "output"}
_PAIRS = {"prompt": "prompt", "query": "input"}
_OTHERS = ("history", "system", "tools", "chosen", "rejected", "messages")
_UNREAD = ("images", "videos", "audios")
_TAGS = ({"role_tag": "role", "content_tag": "content"}, {"role_tag": "from", "content_tag":
         "value"})  # fmt: skip


def sources(names: str, place: Any, folder: Path) -> tuple[list[Any], list[str]]:
    """Return the items of `data.train` for data sets by name, and what they lack.

    Args:
        names: with commas between.
        place: `dataset_dir`, searched in the configuration's folder and in the current one.
        folder: of the configuration.
    """
    wanted = [each.strip() for each in names.split(",") if each.strip()]
    if all(Path(each).suffix for each in wanted):
        return list(wanted), []
    found = next((each for each in _places(place, folder) if each.is_file()), None)
    known = _read(found) if found else {}
    items, notes = list[Any](), list[str]()
    for each in wanted:
        entry = known.get(each)
        if found is None or not isinstance(entry, dict):
            items.append(each)
            where = f"{found} has no '{each}'" if found else f"there is no {NAME} at hand"
            notes.append(f"{where}: name the file of '{each}' in data.train")
        else:
            items.append(_source(each, entry, found.parent, notes))
    return items, notes


def _places(place: Any, folder: Path) -> list[Path]:
    given = Path(str(place))
    return [folder / given / NAME, Path.cwd() / given / NAME]


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _source(name: str, entry: Mapping[str, Any], folder: Path, notes: list[str]) -> Any:
    hub = entry.get("hf_hub_url") or entry.get("ms_hub_url") or entry.get("script_url")
    file = str(folder / str(entry["file_name"])) if entry.get("file_name") else str(hub or name)
    if hub:
        notes.append(f"'{name}' is {hub} on a hub: download it, and name its file in data.train")
    given = entry.get("columns") if isinstance(entry.get("columns"), dict) else {}
    pairs, chats = bool(entry.get("ranking")), entry.get("formatting", "alpaca") != "alpaca"
    names = {**(_PAIRS if pairs else _INSTRUCTION), **{each: each for each in _OTHERS}}
    columns = {
        names[key]: str(column)
        for key, column in dict(given or {}).items()
        if key in names and names[key] != column and not (chats and key == "messages")
    }
    notes += [
        f"'{name}' has {each}, which are not read" for each in _UNREAD if each in (given or {})
    ]
    tags = entry.get("tags") or {}
    roles = {each: tags.get(each, usual) for each, usual in _TAGS[1].items()}
    if chats and roles not in _TAGS:
        notes.append(f"'{name}' has turns with {', '.join(roles.values())}, which are not read")
    keys: dict[str, Any] = {"rows": entry.get("num_samples"), "columns": columns}
    if not chats and not pairs and columns:
        keys["template"] = "instruction"
    kept = {key: item for key, item in keys.items() if item}
    return {"source": file, **kept} if kept else file
