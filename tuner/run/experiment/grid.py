"""From `--set KEY=VALUE,VALUE` to trials: every combination, each a recipe that loads."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import RecipeError
from tuner.recipe import load as recipe_load
from tuner.recipe.load import LoadedRecipe

_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")
_LONGEST = 80
_OPEN, _CLOSE = "[{", "]}"


@dataclass(frozen=True)
class GridPoint:
    """The values of one run of a sweep.

    Attributes:
        name: of its folder, made from what distinguishes it.
        values: of the keys that differ between trials, as they were written.
        overrides: every `--set` of its command.
        loaded: its recipe.
    """

    name: str
    values: Mapping[str, str]
    overrides: tuple[str, ...]
    loaded: LoadedRecipe


def combinations(recipe: Path, asked: Sequence[str], verb: str | None) -> list[GridPoint]:
    """Return every combination of the values, checked as a recipe, in the given order.

    Args:
        recipe: a file or the name of a bundled recipe.
        asked: `KEY=VALUE,VALUE` each; a single value applies to all trials.
        verb: the training command; None: the one that suits the recipe.

    Raises:
        RecipeError: there is nothing to sweep over, a key occurs twice, or a combination is not a
            valid recipe.
    """
    lists: dict[str, list[str]] = {}
    for text in asked:
        key, sign, given = text.partition("=")
        if not sign or not given:
            raise RecipeError(
                f"--set {text} has no value",
                "a sweep takes one or more, separated by commas",
                f"write it as --set {key}=VALUE,VALUE, such as --set method.r=4,8,16",
            )
        if key in lists:
            raise RecipeError(
                f"--set {key} is given twice",
                "it is unclear which values to combine",
                f"give all of them at once: --set {key}={','.join(lists[key])},...",
            )
        lists[key] = list(dict.fromkeys(split(given)))
    swept = [key for key, values in lists.items() if len(values) > 1]
    if not swept:
        raise RecipeError(
            "there is nothing to sweep over",
            "no --set has several values",
            "add --set method.r=4,8,16 or similar; tuner lora trains a single recipe",
        )
    made = []
    for chosen in itertools.product(*lists.values()):
        pairs = dict(zip(lists, chosen, strict=True))
        values = {key: pairs[key] for key in swept}
        overrides = tuple(f"{key}={value}" for key, value in pairs.items())
        loaded = recipe_load.load(recipe, overrides, verb)
        if loaded.recipe.compare is not None:
            raise recipe_load.for_comparison(loaded.path, str(loaded.path))
        made.append(GridPoint(_name(values), values, overrides, loaded))
    return made


def split(text: str) -> list[str]:
    """Split a list at its commas, except those in brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in _OPEN:
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += sign
    return [part.strip() for part in parts]


def _name(values: Mapping[str, str]) -> str:
    """Return a folder's name that shows the values, as far as a name can; equal for equal ones."""
    last = [key.rpartition(".")[2] for key in values]
    keys = last if len(set(last)) == len(last) else list(values)
    given = [f"{key}-{value}" for key, value in zip(keys, values.values(), strict=True)]
    name = "_".join(_UNSAFE.sub("-", each).strip("-") for each in given)
    exact = all(_UNSAFE.sub("-", each) == each for each in given)
    if exact and len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256("\n".join(f"{k}={v}" for k, v in values.items()).encode()).hexdigest()
    return f"{name[:_LONGEST]}-{digest[:8]}"
