"""`--from RUN`: a recipe that starts from the adapter of a run, as words of a command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import RecipeError

if TYPE_CHECKING:
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.recipe.schema_model import ModelSection

# Of the base and of what its prompts look like: the run's, where the recipe does not say.
_KEYS = (
    *("revision", "quantize", "task", "new_tokens", "chat_template", "chat_arguments"),
    *("trust_remote_code", "code_sha256"),
)
# What a whole model has in itself, of the keys of its run.
_UNSET: dict[str, Any] = {
    "model.adapter": None,
    "model.revision": None,
    "model.quantize": "none",
    "model.new_tokens": [],
    "method.continue": False,
}


def begin(
    name: str, recipe: str | None, overrides: Sequence[str], verb: str
) -> tuple[str, list[str]]:
    """Return the recipe, and the overrides with which it starts from a run or an adapter.

    Its weights are trained further, unless the recipe says otherwise. What the run says about the
    base holds where neither recipe nor `--set` does. Without a recipe it is the run's own.

    Args:
        name: the run or the adapter.
        recipe: a file or the name of a bundled recipe, if one is given.
        overrides: `section.key=value` each.
        verb: the command, for messages.

    Raises:
        RecipeError: there is no such run, or no recipe.
        IntegrityError: its record cannot be read.
    """
    from tuner.model.adapters import saved_models
    from tuner.recipe import load
    from tuner.recipe.source import LOCK
    from tuner.record import runs

    found = saved_models.find(str(runs.named(name)), Path(), "--from")
    lock = found.run / LOCK if found.run else None
    if recipe is None and lock is None:
        raise RecipeError(
            f"--from {name}: no recipe is given",
            f"{found.folder} is in no run, whose recipe would be used",
            f"tuner {verb} RECIPE --from {name}",
        )
    file = recipe or str(lock)
    tree = load.read(Path(file), overrides, None).tree if recipe is not None else {}
    said = {
        f"{name}.{key}"
        for name in ("model", "method")
        if isinstance(section := tree.get(name), dict)
        for key in section
    }
    said |= {text.partition("=")[0].strip() for text in overrides}
    values = {f"model.{key}": value for key, value in _model(found).items()}
    if not found.whole:
        values |= {"model.adapter": str(found.run or found.folder), "method.continue": True}
    elif recipe is None:
        values |= _UNSET
    further = [f"{key}={_text(value)}" for key, value in values.items() if key not in said]
    return file, [*further, *overrides]


def _model(found: SavedModel) -> dict[str, Any]:
    """Return the keys of the model section that come from a run."""
    section = found.section
    if found.whole:
        own = ("revision", "quantize", "new_tokens")
        kept = {key: value for key, value in _set(section).items() if key not in own}
        return {"base": str(found.folder), **kept}
    if section is None:
        named = found.checked().sealed.get("base") or found.config.get("base_model_name_or_path")
        return {"base": str(named)} if named else {}
    there = found.start / Path(section.base).expanduser()
    base = str(there.resolve()) if there.exists() else section.base
    return {"base": base, **_set(section)}


def _set(section: ModelSection | None) -> dict[str, Any]:
    """Return what a run's model section has besides its base and defaults."""
    if section is None:
        return {}
    default = type(section)()
    values = section.model_dump(mode="json")
    return {key: values[key] for key in _KEYS if getattr(section, key) != getattr(default, key)}


def _text(value: Any) -> str:
    """Return a value as `--set` takes it."""
    return json.dumps(value, ensure_ascii=False)
