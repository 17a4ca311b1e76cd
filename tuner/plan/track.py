"""Trackers of a plan: what is missing to send runs there, and which settings are sent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from tuner.recipe.schema import keys_of
from tuner.record.trackers.send import Labels
from tuner.record.trackers.table import TRACKERS, shown

if TYPE_CHECKING:
    from tuner.methods.method import Method
    from tuner.recipe.schema import Recipe

Sent = str | int | float | bool
FIGURES = (
    "numbers of metrics.jsonl, scores before and after, numbers and switches of the recipe "
    "(--verbose lists these)"
)
# Where a run takes place, and what it costs, is nobody's business.
_SECTIONS = ("model", "data", "method", "train", "eval", "reward", "rlhf", "ppo")
_OF_RUN = ("run.seed", "run.device", "run.strategy", "run.deterministic")
# A base by such a name is public; other names may be paths.
_PUBLIC = ("alias", "hub")
_SHARE = re.compile(r"[0-9.]+%")


def contradictions(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    """Yield what is missing to send a run to the trackers of its recipe, one line each."""
    for name in recipe.run.track:
        if lacks := TRACKERS[name].missing(os.environ):
            yield f"run.track: {name}, but {lacks}; or leave out run.track"


def facts(recipe: Recipe, output: Path) -> dict[str, dict[str, Any]]:
    """Return where a run is sent to and under which name; empty: nowhere."""
    if not recipe.run.track:
        return {}
    places: dict[str, str] = {
        name: shown(TRACKERS[name].place(os.environ), output) for name in recipe.run.track
    }
    return {
        "track": {
            **places,
            "project": recipe.run.project,
            "name": recipe.run.name or output.name,
            "sent": FIGURES,
        }
    }


def labels(record: Mapping[str, Any], folder: Path) -> Labels:
    """Return what trackers call a run, and the settings that they show.

    Args:
        record: what run.json holds; that of an earlier version says nothing of trackers.
        folder: of the run.
    """
    plan = record["plan"]
    said = {key: item["value"] for key, item in plan["values"].items()}
    return Labels(
        said.get("run.name") or folder.resolve().name,
        said.get("run.project") or "tuner",
        tuple(said.get("run.tags") or ()),
        settings(plan),
        datetime.fromisoformat(record["started"]).timestamp(),
    )


def settings(plan: Mapping[str, Any]) -> dict[str, Sent]:
    """Return the settings that trackers are sent: numbers, flags, and words that the schema lists.

    A text of the user's own, such as a path, a prompt or a label, is never among them; of the base
    it is the name, if that is a public one.

    Args:
        plan: as run.json has it.
    """
    values = {key: item["value"] for key, item in plan["values"].items()}
    method = values.get("method.name")
    found: dict[str, Sent] = {"verb": plan["verb"], "task": plan["task"]}
    if plan["model"].get("kind") in _PUBLIC:
        found["model.base"] = plan["model"]["name"]
    for key, value in values.items():
        section, _, name = key.partition(".")
        if section not in _SECTIONS and key not in _OF_RUN:
            continue
        info = keys_of(section, method).get(name)
        if info is not None and _harmless(value, _words(info.annotation)):
            found[key] = value
    for name in ("total", "trainable"):
        found[f"parameters.{name}"] = plan["parameters"][name]
    found["steps"] = plan["steps"]["total"]
    return found


def _harmless(value: Any, words: set[str]) -> bool:
    if isinstance(value, str):
        return value in words or value == "auto" or _SHARE.fullmatch(value) is not None
    return isinstance(value, bool | int | float)


def _words(annotation: Any) -> set[str]:
    """Return the words that a type lists."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return {str(word) for word in inner}
    return {word for part in inner for word in _words(part)}
