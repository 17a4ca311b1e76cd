"""Reading a recipe: the file, the flags on top of it, and every problem at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tuner import recipe_history, recipe_source
from tuner.compare import recipe as compare_recipe
from tuner.errors import RecipeError
from tuner.methods import METHODS
from tuner.recipe import Recipe, sections
from tuner.recipe_errors import explain
from tuner.recipe_source import FIX, LOCK, Source
from tuner.redact import redact
from tuner.verbs import TASK_SECTIONS, VERBS


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


@dataclass(frozen=True)
class LoadedComparison:
    """A recipe that compares methods.

    Attributes:
        shared: what all have in common.
        runs: by name, the recipe of each run.
    """

    shared: LoadedRecipe
    runs: dict[str, LoadedRecipe]


@dataclass(frozen=True)
class _Draft:
    """A recipe's file with the flags on top of it, before the schema has seen it."""

    file: Path
    sha256: str
    tree: dict[str, Any]
    source: Source
    problems: list[str]

    def loaded(self, recipe: Recipe, verb: str, source: Source) -> LoadedRecipe:
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
        verb: the training command; None: the one that fits the recipe's method best.
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
        raise refused(draft.file, problems)
    return draft.loaded(recipe, verb, source)


def load_comparison(
    path: Path, overrides: Sequence[str] = (), output: str | None = None
) -> LoadedComparison:
    """Read a recipe with a `compare` section: what is shared, and an ordinary recipe a method.

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
            "it names the methods to compare",
            "add, for example: compare: {methods: [{name: lora}, {name: prefix}]}",
        )
    shared, problems = validate(draft.tree, draft.source)
    problems = [*draft.problems, *problems]
    if draft.tree.get("method") is not None:
        place = draft.source.place(("method",))
        problems.append(f"{place}: method: the methods of a comparison stand in compare.methods")
    runs: dict[str, LoadedRecipe] = {}
    for name, tree, source in compare_recipe.trees(draft.tree, draft.source, shared):
        recipe, found = validate(tree, source)
        problems += [f"{name}: {line}" for line in found if line not in problems]
        if recipe is not None:
            runs[name] = draft.loaded(recipe, "sft", source)
    if shared is not None and shared.compare is not None:
        problems += compare_recipe.unknown_rates(shared.compare, draft.tree, draft.source)
    if shared is None or problems:
        raise refused(draft.file, problems)
    return LoadedComparison(draft.loaded(shared, "compare", draft.source), runs)


def for_comparison(file: Path, place: str) -> RecipeError:
    """The refusal of a recipe that compares methods by a command that trains one."""
    what = "the section compare is for `tuner compare`, which trains several methods"
    fix = f"run: tuner compare --recipe {file}"
    return RecipeError(what, place, fix, problems=[f"{place}: {what}"])


def read(path: Path, overrides: Sequence[str], output: str | None) -> _Draft:
    """The file with the flags on top of it, not yet validated."""
    file = recipe_source.find(path)
    content = recipe_source.read(file)
    tree, lines = recipe_source.parse(content, file)
    if file.name == LOCK:
        recipe_history.renew_lock(tree, lines)
    source = Source(str(file), lines)
    recipe_source.refuse_secrets(tree, overrides, output, source)
    problems = recipe_source.apply(tree, [*overrides], source, output)
    for name in [name for name in sections() if name in tree and tree[name] is None]:
        del tree[name]
    return _Draft(file, hashlib.sha256(content).hexdigest(), tree, source, problems)


def validate(tree: dict[str, Any], source: Source) -> tuple[Recipe | None, list[str]]:
    try:
        return Recipe.model_validate(tree), []
    except ValidationError as error:
        return None, explain(error, tree, source)


def refused(file: Path, problems: Sequence[str]) -> RecipeError:
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    return RecipeError(f"{file} has {count}", fix=FIX, problems=[redact(line) for line in problems])


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every key of the recipe with its value, as `section.key`."""
    return {
        f"{section}.{key}": value
        for section, values in recipe.model_dump(exclude_none=False).items()
        if values is not None
        for key, value in values.items()
    }


def content_sha256(loaded: LoadedRecipe) -> str:
    """What a run of the recipe depends on: every resolved key but where it runs, and its data.

    Paths count as they are written and data files by what they hold, so that a project may move.
    """
    recipe, elsewhere = loaded.recipe, {"output": None, "price_per_hour": None}
    own = recipe.model_copy(update={"run": recipe.run.model_copy(update=elsewhere)})
    values = recipe_history.as_then(_sections(own))
    digest = hashlib.sha256(f"{loaded.verb}\n{_as_yaml(values)}".encode())
    for name in (*recipe.data.train, recipe.data.eval, recipe.data.template):
        # As `data.load.find` looks for them.
        path = Path(str(name)).expanduser()
        if file := next((each for each in (loaded.folder / path, path) if each.is_file()), None):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def dump(recipe: Recipe, folder: Path | None = None) -> str:
    """The whole recipe as YAML that loads back to an equal one.

    With `folder`, data files, bases and adapters that lie there are written with their absolute
    path, so that the text means the same wherever it is stored.
    """
    from tuner.base import ALIASES

    values = _sections(recipe)
    if folder is not None:
        values["data"]["train"] = [_absolute(file, folder) for file in values["data"]["train"]]
        values["data"]["eval"] = _absolute(values["data"]["eval"], folder)
        values["data"]["template"] = _absolute(values["data"]["template"], folder)
        if values["model"]["base"] not in ALIASES:
            values["model"]["base"] = _absolute(values["model"]["base"], folder)
        if values["method"].get("source"):
            values["method"]["source"] = _absolute(values["method"]["source"], folder)
        if values.get("rlhf"):
            _absolute_rlhf(values, folder)
    return _as_yaml(values)


def _sections(recipe: Recipe) -> dict[str, Any]:
    dumped = recipe.model_dump(mode="json")
    return {section: keys for section, keys in dumped.items() if keys is not None}


def _as_yaml(values: dict[str, Any]) -> str:
    return yaml.dump(
        _quoted(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20
    )


def _absolute_rlhf(values: dict[str, Any], folder: Path) -> None:
    rlhf = values["rlhf"]
    rlhf["policy"] = _absolute(rlhf["policy"], folder)
    for part in rlhf["reward"]:
        if "model" in part:
            part["model"] = _absolute(part["model"], folder)
        if "function" in part:
            file, _, name = part["function"].rpartition(":")
            part["function"] = f"{_absolute(file, folder)}:{name}"
    if "ppo" in values:
        values["ppo"]["ptx_data"] = _absolute(values["ppo"]["ptx_data"], folder)


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
    if isinstance(value, str) and (folder / value).exists():
        return str((folder / value).resolve())
    return value


def settle_verb(
    tree: dict[str, Any], verb: str | None, source: Source
) -> tuple[str, RecipeError | None]:
    """The verb, with the method it implies put in; and what is wrong with the two together."""
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
    what = f"method '{row.name}' is not one that `tuner {verb}` trains"
    line = f"{source.place(('method', 'name'))}: method.name: {what}; `tuner {row.verb}` does"
    by_flag = "" if (("method", "name")) in source.lines else f" --set method.name={row.name}"
    fix = f"run: tuner {row.verb} --recipe {source.file}{by_flag}"
    return verb, RecipeError(what, fix=fix, problems=[line])


def _verb_of_sections(tree: dict[str, Any]) -> str | None:
    """The verb of a task whose section the recipe has."""
    return next((task for name, task in TASK_SECTIONS.items() if tree.get(name) is not None), None)


def _algorithm(tree: dict[str, Any]) -> str:
    rlhf = tree.get("rlhf")
    return str(rlhf.get("algorithm", "ppo")) if isinstance(rlhf, dict) else "ppo"


def _add_sections(tree: dict[str, Any], verb: str | None) -> None:
    """A task has its sections, with their defaults where the recipe says nothing."""
    for section, task in TASK_SECTIONS.items():
        wanted = verb is not None and VERBS[verb].task == task
        if wanted and (section != "ppo" or _algorithm(tree) == "ppo"):
            tree.setdefault(section, {})


def _foreign_sections(tree: dict[str, Any], verb: str | None, source: Source) -> RecipeError | None:
    """The refusal of sections that the verb's task does not read."""
    task = VERBS[verb].task if verb else _verb_of_sections(tree)
    algorithm = _algorithm(tree)
    if tree.get("ppo") is not None and task == "rlhf" and algorithm != "ppo":
        what = f"the section ppo is not for rlhf.algorithm: {algorithm}"
        line = f"{source.place(('ppo',))}: {what}"
        return RecipeError(what, fix="leave the section out", problems=[line])
    for name, owner in TASK_SECTIONS.items():
        if tree.get(name) is not None and owner != task:
            what = f"the section {name} is for `tuner {owner}`"
            line = f"{source.place((name,))}: {what}, not for `tuner {verb or task}`"
            fix = f"run: tuner {owner} --recipe {source.file}, or leave the section out"
            return RecipeError(what, fix=fix, problems=[line])
    return None


def _origins(recipe: Recipe, source: Source) -> dict[str, str]:
    return {key: source.origin(tuple(key.split(".", 1))) for key in flat(recipe)}
