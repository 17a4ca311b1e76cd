"""Reading a recipe: the file, the flags on top of it, and every problem at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tuner import recipe_source
from tuner.errors import RecipeError
from tuner.methods import METHODS
from tuner.recipe import Recipe, sections
from tuner.recipe_errors import explain
from tuner.recipe_source import FIX, Source
from tuner.redact import redact
from tuner.verbs import VERBS


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that holds, and where each of its values comes from.

    Attributes:
        recipe: the validated recipe.
        path: the file it was read from.
        folder: the file's folder; relative data paths start there.
        verb: the training command.
        task: the command's task.
        origins: flat key (`train.epochs`) -> `recipe line 7`, `--set`, `--output`, `verb` or
            `default`.
        sha256: of the file's bytes.
    """

    recipe: Recipe
    path: Path
    folder: Path
    verb: str
    task: str
    origins: dict[str, str]
    sha256: str

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem


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
        verb: the training command; None: the one that fits the recipe's method best.
        output: the value of `--output`.

    Raises:
        RecipeError: with every problem found, each with file, line and key.
    """
    file = recipe_source.find(path)
    content = recipe_source.read(file)
    tree, lines = recipe_source.parse(content, file)
    source = Source(str(file), lines)
    recipe_source.refuse_secrets(tree, overrides, output, source)
    problems = recipe_source.apply(tree, [*overrides], source, output)
    for name in [name for name in sections() if name in tree and tree[name] is None]:
        del tree[name]
    verb, problem = _settle_verb(tree, verb, source)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        problems += explain(error, tree, source)
    if problem and not problems:
        raise problem
    if problem:
        problems += problem.problems
    if recipe is None or problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise RecipeError(
            f"{file} has {count}", fix=FIX, problems=[redact(line) for line in problems]
        )
    return LoadedRecipe(
        recipe=recipe,
        path=file,
        folder=file.resolve().parent,
        verb=verb,
        task=VERBS[verb].task,
        origins=_origins(recipe, source),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every key of the recipe with its value, as `section.key`."""
    return {
        f"{section}.{key}": value
        for section, values in recipe.model_dump().items()
        for key, value in values.items()
    }


def dump(recipe: Recipe, folder: Path | None = None) -> str:
    """The whole recipe as YAML that loads back to an equal one.

    With `folder`, data files that lie there are written with their absolute path, so that the text
    means the same wherever it is stored.
    """
    values = recipe.model_dump(mode="json")
    if folder is not None:
        values["data"]["train"] = [_absolute(file, folder) for file in values["data"]["train"]]
        values["data"]["eval"] = _absolute(values["data"]["eval"], folder)
        values["data"]["template"] = _absolute(values["data"]["template"], folder)
    return yaml.dump(
        _quoted(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20
    )


class _Quoted(str):
    """Text that the dump puts in quotes, so that it stays text whatever it looks like."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Quoted,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"'),
)


def _quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return _Quoted(value) if isinstance(value, str) else value


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, str) and (folder / value).is_file():
        return str((folder / value).resolve())
    return value


def _settle_verb(
    tree: dict[str, Any], verb: str | None, source: Source
) -> tuple[str, RecipeError | None]:
    """The verb, with the method it implies put in; and what is wrong with the two together."""
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
    what = f"method '{row.name}' is not one that `tuner {verb}` trains"
    line = f"{source.place(('method', 'name'))}: method.name: {what}; `tuner {row.verb}` does"
    fix = f"run: tuner {row.verb} --recipe {source.file}"
    return verb, RecipeError(what, fix=fix, problems=[line])


def _origins(recipe: Recipe, source: Source) -> dict[str, str]:
    return {key: source.origin(tuple(key.split(".", 1))) for key in flat(recipe)}
