"""The verb of a recipe, from the command line and the recipe's sections."""

from __future__ import annotations

from typing import Any

from tuner.errors import RecipeError
from tuner.methods import METHODS
from tuner.recipe.source import RecipeSource
from tuner.recipe.verbs import ALGORITHM_SECTIONS, TASK_SECTIONS, VERBS


def settle_verb(
    tree: dict[str, Any], verb: str | None, source: RecipeSource
) -> tuple[str, RecipeError | None]:
    """Return the verb, after filling in the method it implies; and an error if they conflict."""
    if problem := _foreign_sections(tree, verb, source):
        return verb or "", problem
    verb = verb or _verb_of_sections(tree)
    _add_sections(tree, verb)
    family = VERBS[verb].family if verb else None
    method = tree.setdefault("method", {}) if family else tree.get("method")
    if isinstance(method, dict) and method.get("name") is None:
        method.pop("name", None)
        if family:
            method["name"] = next(row.name for row in METHODS.values() if row.verb == family)
            source.override(("method", "name"), "verb")
    name = method.get("name", "lora") if isinstance(method, dict) else "lora"
    row = METHODS.get(name) if isinstance(name, str) else None
    if verb is None:
        return (row.verb if row else "sft"), None
    if row is None or family in (None, row.verb):
        return verb, None
    what = f"`tuner {verb}` does not train method '{row.name}'"
    line = f"{source.place(('method', 'name'))}: method.name: {what}; `tuner {row.verb}` does"
    by_flag = "" if (("method", "name")) in source.lines else f" --set method.name={row.name}"
    fix = f"run: tuner {row.verb} --recipe {source.file}{by_flag}"
    return verb, RecipeError(what, fix=fix, problems=[line])


def _verb_of_sections(tree: dict[str, Any]) -> str | None:
    """Return the verb of the task whose section the recipe has."""
    return next((task for name, task in TASK_SECTIONS.items() if tree.get(name) is not None), None)


def _algorithm(tree: dict[str, Any]) -> str:
    rlhf = tree.get("rlhf")
    return str(rlhf.get("algorithm", "ppo")) if isinstance(rlhf, dict) else "ppo"


def _add_sections(tree: dict[str, Any], verb: str | None) -> None:
    """Add the sections of the task, with their defaults, where the recipe has none."""
    for section, task in TASK_SECTIONS.items():
        wanted = verb is not None and VERBS[verb].task == task
        if wanted and (section not in ALGORITHM_SECTIONS or section == _algorithm(tree)):
            tree.setdefault(section, {})


def _foreign_sections(
    tree: dict[str, Any], verb: str | None, source: RecipeSource
) -> RecipeError | None:
    """Return the error for sections that the verb's task does not read."""
    task = VERBS[verb].task if verb else _verb_of_sections(tree)
    algorithm = _algorithm(tree)
    for name in ALGORITHM_SECTIONS:
        if tree.get(name) is not None and task == "rlhf" and algorithm != name:
            what = f"the section {name} does not apply to rlhf.algorithm: {algorithm}"
            line = f"{source.place((name,))}: {what}"
            return RecipeError(what, fix="leave the section out", problems=[line])
    for name, owner in TASK_SECTIONS.items():
        if tree.get(name) is not None and owner != task:
            what = f"the section {name} is for `tuner {owner}`"
            line = f"{source.place((name,))}: {what}, not for `tuner {verb or task}`"
            fix = f"run: tuner {owner} --recipe {source.file}, or leave the section out"
            return RecipeError(what, fix=fix, problems=[line])
    return None
