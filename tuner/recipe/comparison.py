"""A recipe that compares methods, split into one ordinary recipe per method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import RecipeError
from tuner.methods import METHODS
from tuner.recipe.load import LoadedRecipe, read, refused, validate
from tuner.recipe.schema import CompareSection, Recipe
from tuner.recipe.source import RecipeSource
from tuner.schema.strict_yaml import Path as KeyPath
from tuner.schema.suggest import suggestion

_METHODS, _RATES = ("compare", "methods"), ("compare", "learning_rates")


def trees(
    tree: dict[str, Any], source: RecipeSource, shared: Recipe | None
) -> Iterator[tuple[str, dict[str, Any], RecipeSource]]:
    """Yield name, keys and their places of every run in a comparison.

    Args:
        tree: the keys of the whole recipe, as the file has them.
        source: where they come from.
        shared: the validated recipe, if it is valid; only then are rates and formats filled in.
    """
    rest = {key: value for key, value in tree.items() if key not in ("compare", "method")}
    if isinstance(rest.get("run"), dict):
        rest["run"] = {key: value for key, value in rest["run"].items() if key != "output"}
    for index, name, options in _named(tree):
        own = {**rest, "method": dict(options)}
        places = _moved(source, (*_METHODS, index), ("method",))
        if shared is not None and shared.compare is not None:
            method = str(options.get("name", "lora"))
            rates = shared.compare.learning_rates
            key = name if name in rates else method
            if key in rates:
                own["train"] = {**own.get("train", {}), "learning_rate": rates[key]}
                places = _moved(places, (*_RATES, key), ("train", "learning_rate"))
            if _without_adapter(method) and shared.export.formats == ("adapter",):
                own["export"] = {**own["export"], "formats": ["merged"]}
        yield name, own, places


def unknown_rates(section: CompareSection, tree: dict[str, Any], source: RecipeSource) -> list[str]:
    """Return a line for every rate whose method is not compared."""
    known = {name for _, name, _ in _named(tree)}
    known |= {str(options.get("name", "lora")) for _, _, options in _named(tree)}
    return [
        f"{source.place((*_RATES, key))}: {'.'.join(_RATES)}.{key}: no such method is compared; "
        f"{suggestion(key, sorted(known))}"
        for key in section.learning_rates
        if key not in known
    ]


def _named(tree: dict[str, Any]) -> list[tuple[int, str, dict[str, Any]]]:
    """Return number, name and options of each method; the second `lora` is named lora-2."""
    compare = tree.get("compare")
    listed = compare.get("methods") if isinstance(compare, dict) else None
    seen: Counter[str] = Counter()
    result = []
    for index, options in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(options, dict):
            method = str(options.get("name") or "lora")
            seen[method] += 1
            number = f"-{seen[method]}" if seen[method] > 1 else ""
            result.append((index, f"{method}{number}", options))
    return result


def _without_adapter(method: str) -> bool:
    """Return whether a method trains the base's weights, so that it saves a whole model."""
    return method in METHODS and not METHODS[method].adapter


def _moved(source: RecipeSource, old: KeyPath, new: KeyPath) -> RecipeSource:
    """Return the places, with those of the keys below `old` also for the keys below `new`."""
    size = len(old)
    lines = {new + path[size:]: line for path, line in source.lines.items() if path[:size] == old}
    flags = {new + path[size:]: flag for path, flag in source.flags.items() if path[:size] == old}
    above = [path for path in source.flags if old[: len(path)] == path]
    if above:
        flags[new] = source.flags[above[0]]
    return RecipeSource(source.file, {**source.lines, **lines}, {**source.flags, **flags})


@dataclass(frozen=True)
class LoadedComparison:
    """A recipe that compares methods.

    Attributes:
        shared: what all runs have in common.
        runs: the recipe of each run, by name.
    """

    shared: LoadedRecipe
    runs: dict[str, LoadedRecipe]


def load_comparison(
    path: Path, overrides: Sequence[str] = (), output: str | None = None
) -> LoadedComparison:
    """Read a recipe with a `compare` section: the shared part, and one recipe per method.

    Args:
        path: a file, or the name of a bundled recipe where no such file exists.
        overrides: `section.key=value` each.
        output: the value of `--output`.

    Raises:
        RecipeError: with every problem found; those of one method begin with its name.
    """
    draft = read(path, overrides, output)
    if draft.tree.get("compare") is None:
        raise RecipeError(
            f"{draft.file} has no section compare",
            "that section lists the methods to compare",
            "add, for example: compare: {methods: [{name: lora}, {name: prefix}]}",
        )
    shared, problems = validate(draft.tree, draft.source)
    problems = [*draft.problems, *problems]
    if draft.tree.get("method") is not None:
        place = draft.source.place(("method",))
        problems.append(f"{place}: method: a comparison lists its methods in compare.methods")
    runs: dict[str, LoadedRecipe] = {}
    for name, tree, source in trees(draft.tree, draft.source, shared):
        recipe, found = validate(tree, source)
        problems += [f"{name}: {line}" for line in found if line not in problems]
        if recipe is not None:
            runs[name] = draft.loaded(recipe, "sft", source)
    if shared is not None and shared.compare is not None:
        problems += unknown_rates(shared.compare, draft.tree, draft.source)
    if shared is None or problems:
        raise refused(draft.file, problems)
    return LoadedComparison(draft.loaded(shared, "compare", draft.source), runs)
