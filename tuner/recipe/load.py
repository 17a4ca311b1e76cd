"""Reading a recipe: the file, the flags on top of it, and every problem at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner.console.redact import redact
from tuner.errors import RecipeError
from tuner.recipe import history
from tuner.recipe import source as recipe_source
from tuner.recipe.convert.tools import Tool, recognise
from tuner.recipe.explain import explain
from tuner.recipe.schema import Recipe, sections
from tuner.recipe.settle_verb import settle_verb
from tuner.recipe.source import FIX, LOCK, RecipeSource
from tuner.recipe.verbs import VERBS
from tuner.schema import strict_yaml


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe, and where each of its values comes from.

    Attributes:
        recipe: the validated recipe.
        path: the file it was read from.
        folder: the file's folder; relative data paths start there.
        verb: the training command.
        task: the command's task.
        origins: flat key (`train.epochs`) -> `recipe line 7`, `--set`, `--output`, `verb` or
            `default`.
        sha256: of the file's bytes.
        formats: of a run that is resumed: of each of its files, the data template and its columns;
            no columns where an earlier version began it.
        earlier_turns: of a run that is resumed: whether turns are read as an earlier version read
            them.
    """

    recipe: Recipe
    path: Path
    folder: Path
    verb: str
    task: str
    origins: dict[str, str]
    sha256: str
    formats: tuple[tuple[str, dict[str, str] | None], ...] = ()
    earlier_turns: bool = False

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem


@dataclass(frozen=True)
class _Draft:
    """A recipe's file with the flags on top of it, not yet validated."""

    file: Path
    sha256: str
    tree: dict[str, Any]
    source: RecipeSource
    problems: list[str]

    def loaded(self, recipe: Recipe, verb: str, source: RecipeSource) -> LoadedRecipe:
        return LoadedRecipe(
            recipe=recipe,
            path=self.file,
            folder=self.file.resolve().parent,
            verb=verb,
            task=VERBS[verb].task if verb in VERBS else "",
            origins=_origins(recipe, source),
            sha256=self.sha256,
        )


def load(
    path: Path,
    overrides: Sequence[str] = (),
    verb: str | None = "sft",
    output: str | None = None,
) -> LoadedRecipe:
    """Read a recipe file and put the flags on top of it.

    Args:
        path: a file, or the name of a bundled recipe where no such file exists.
        overrides: `section.key=value` each; the last one wins over earlier ones and over the file.
        verb: the training command; None: the one that fits the recipe's method.
        output: the value of `--output`.

    Raises:
        RecipeError: with every problem found, each with file, line and key.
    """
    draft = read(path, overrides, output)
    tree, source = draft.tree, draft.source
    asked, problems = verb, list(draft.problems)
    verb, problem = settle_verb(tree, verb, source)
    recipe, found = validate(tree, source)
    problems += found
    if asked and tree.get("compare") is not None:
        problem = for_comparison(draft.file, source.place(("compare",)))
    if problem and not problems:
        raise problem
    if problem:
        problems += problem.problems
    if recipe is None or problems:
        raise refused(draft.file, problems, recognise(strict_yaml.resolve(tree)))
    return draft.loaded(recipe, verb, source)


def for_comparison(file: Path, place: str) -> RecipeError:
    """Return the error of a command that trains one method, for a recipe that compares several."""
    what = "the section compare is for `tuner compare`, which trains several methods"
    fix = f"run: tuner compare --recipe {file}"
    return RecipeError(what, place, fix, problems=[f"{place}: {what}"])


def read(path: Path, overrides: Sequence[str], output: str | None) -> _Draft:
    """Return the file with the flags on top of it, not yet validated."""
    file = recipe_source.find(path)
    content = recipe_source.read(file)
    tree, lines = recipe_source.parse(content, file)
    if file.name == LOCK:
        history.renew_lock(tree, lines)
    source = RecipeSource(str(file), lines)
    recipe_source.refuse_secrets(tree, overrides, output, source)
    problems = recipe_source.apply(tree, [*overrides], source, output)
    for name in [name for name in sections() if name in tree and tree[name] is None]:
        del tree[name]
    return _Draft(file, hashlib.sha256(content).hexdigest(), tree, source, problems)


def validate(tree: dict[str, Any], source: RecipeSource) -> tuple[Recipe | None, list[str]]:
    """Return the validated recipe, or None and the problems."""
    try:
        return Recipe.model_validate(tree), []
    except ValidationError as error:
        return None, explain(error, tree, source)


def refused(file: Path, problems: Sequence[str], tool: Tool | None = None) -> RecipeError:
    """Return the error that lists all problems of a recipe; or of another tool's file, given it."""
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    lines = [redact(line) for line in problems]
    if tool is None:
        return RecipeError(f"{file} has {count}", fix=FIX, problems=lines)
    fix = f"run: tuner recipes convert {file} --output {file.stem}-recipe.yaml"
    return RecipeError(
        f"{file} is a configuration of {tool.name}, not a recipe", fix=fix, problems=lines
    )


def flat(recipe: Recipe) -> dict[str, Any]:
    """Return every key of the recipe, as `section.key`, with its value."""
    return {
        f"{section}.{key}": value
        for section, values in recipe.model_dump(exclude_none=False).items()
        if values is not None
        for key, value in values.items()
    }


def _origins(recipe: Recipe, source: RecipeSource) -> dict[str, str]:
    return {key: source.origin(tuple(key.split(".", 1))) for key in flat(recipe)}
