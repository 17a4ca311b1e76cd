"""The folder of a run: asked for, or named after the recipe; and what `--resume` finds there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import RecipeError
from tuner.recipe.source import LOCK
from tuner.record import output, runs
from tuner.record.run_json import RUN
from tuner.record.runs import RUNS, RunSummary
from tuner.schema.suggest import nearest

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.recipe.load import LoadedRecipe


def run_of_lock(loaded: LoadedRecipe) -> Path | None:
    """Return the run folder in which the recipe is the lock; None: it is another file."""
    folder = loaded.path.parent
    return folder if loaded.path.name == LOCK and (folder / RUN).is_file() else None


def as_repeated(loaded: LoadedRecipe) -> LoadedRecipe:
    """Return the lock of a run without the run's own folder: repeated, it is another run."""
    if run_of_lock(loaded) is None or not loaded.origins["run.output"].startswith("recipe"):
        return loaded
    run = loaded.recipe.run.model_copy(update={"output": None})
    return replace(
        loaded,
        recipe=loaded.recipe.model_copy(update={"run": run}),
        origins=loaded.origins | {"run.output": "default"},
    )


def default(loaded: LoadedRecipe) -> Path:
    """Return runs/<recipe name>; of a lock, runs/<name of its run>."""
    locked = run_of_lock(loaded)
    return RUNS / (loaded.name if locked is None else locked.resolve().name)


def find(loaded: LoadedRecipe, resume: bool, record: str = RUN) -> Path:
    """Return the requested folder; else runs/<recipe name>, numbered if that is taken.

    Args:
        loaded: the recipe.
        resume: look for the newest unfinished run with this recipe; or for the newest finished
            one, if the command line asks for more steps than that has.
        record: the file that shows such a run.

    Raises:
        SafetyError: a path in the recipe leaves the current directory through `..`.
    """
    asked = loaded.recipe.run.output
    if asked is not None:
        in_recipe = loaded.origins["run.output"].startswith("recipe")
        output.resolve_output(Path(asked), from_recipe=in_recipe)
        return Path(asked)
    base, locked = default(loaded), run_of_lock(loaded)
    if resume and locked is not None and runs.unfinished(runs.read_run(locked)):
        return locked
    earlier = runs.newest_matching(base, loaded.sha256, record) if resume else None
    if resume and earlier is None and record == RUN:
        earlier = _longer(loaded, base, locked)
    return earlier or runs.free_name(base)


def _longer(loaded: LoadedRecipe, base: Path, locked: Path | None) -> Path | None:
    """Return the finished run that the command line gives more steps; None: there is none."""
    asked = [key for key in ("epochs", "max_steps") if loaded.origins[f"train.{key}"] == "--set"]
    finished = locked or runs.newest_matching(base, loaded.sha256, done=True)
    if not asked or finished is None:
        return None
    values = runs.read_run(finished).record.get("plan", {}).get("values", {})
    for key in asked:
        before = values.get(f"train.{key}", {}).get("value")
        if before is not None and (getattr(loaded.recipe.train, key) or 0) > before:
            return finished
    return None


def command(verb: str, recipe: str, overrides: Sequence[str]) -> list[str]:
    """Return the words of a training command, without the folder and `--resume`."""
    kept = [text for text in overrides if text.partition("=")[0].strip() != "run.output"]
    return [verb, "--recipe", recipe, *(word for text in kept for word in ("--set", text))]


def nothing_to_resume(
    loaded: LoadedRecipe,
    folder: Path,
    given: Sequence[str],
    console: Console,
    record: str = RUN,
) -> None:
    """Say before all else that `--resume` begins a new run; stop if another folder is meant.

    A command that always has `--resume`, as in a script of a cluster, begins its run so.

    Args:
        loaded: the recipe.
        folder: of the run.
        given: the words of the command (see `command`).
        console: warns.
        record: the file that shows a run.

    Raises:
        RecipeError: a folder of nearly this name holds an unfinished run of this very recipe.
    """
    if (folder / record).is_file():
        return
    others = [run for run in _others(folder, record) if run.path.resolve() != folder.resolve()]
    near = [run for run in others if nearest(folder.name, [run.path.name])]
    unfinished = [run for run in others if _goes_on(run) and _same(loaded, run)]
    begins = f"nothing to resume in {folder}"
    if meant := [run for run in near if run in unfinished]:
        words = ("tuner", *given, "--output")
        held = [f"{run.path} holds an unfinished run of this recipe" for run in meant]
        raise RecipeError(
            f"{begins}: it holds no run",
            "; ".join(held),
            f"continue it: {shlex.join([*words, str(meant[-1].path), '--resume'])}; "
            f"to begin a new run: {shlex.join([*words, str(folder)])}",
        )
    found = [f"{run.path} is an unfinished run of this recipe" for run in unfinished[-1:]]
    found = found or [f"{run.path} is {_described(run)}" for run in near[-3:]]
    console.warn(f"{begins}, so a NEW run begins there{'; '.join(['', *found])}")


def _others(folder: Path, record: str) -> list[RunSummary]:
    """Return the runs next to a folder, and those where runs are by default."""
    places = dict.fromkeys((folder.parent.resolve(), RUNS.resolve()))
    here = Path.cwd()
    return [
        replace(run, path=run.path.relative_to(here) if run.path.is_relative_to(here) else run.path)
        for place in places
        for run in runs.list_runs(place, record)
    ]


def _goes_on(run: RunSummary) -> bool:
    """Whether a run has stopped and can be continued."""
    return run.status in ("interrupted", "failed") or (run.status == "running" and bool(run.note))


def _same(loaded: LoadedRecipe, run: RunSummary) -> bool:
    """Whether a run was begun with this recipe, its changes on the command line included."""
    from tuner.run import content

    locked = run_of_lock(loaded)
    if locked is not None and locked.resolve() == run.path.resolve():
        return True
    known = run.record.get("content_sha256")
    if known is None:
        return bool(run.record.get("recipe_sha256") == loaded.sha256)
    return bool(known == content.content_sha256(loaded))


def _described(run: RunSummary) -> str:
    if run.status == "done":
        return "done"
    return f"{run.status}, and of another recipe or other data" if _goes_on(run) else run.status
