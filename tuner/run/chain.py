"""Recipes that refer to other recipes: these run first, once, and are found again by content.

A stage is a separate run in a separate process: if the command is killed and started again, it does
not repeat what is finished.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import Interrupted, RecipeError, ResourceError, TunerError
from tuner.machine.child import carry_out
from tuner.machine.signals import StopRequest
from tuner.model.adapters import saved_models
from tuner.model.adapters.saved_models import RECIPES, SavedModel
from tuner.recipe import load as recipe_load
from tuner.recipe import source as recipe_source
from tuner.record import gates, runs
from tuner.rewards.options import ModelReward
from tuner.run import content
from tuner.run.experiment.trial import Trial

if TYPE_CHECKING:
    from tuner.console.console import Console
    from tuner.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class Link:
    """A stage that must be done first.

    Attributes:
        name: the recipe file, as written in the recipe.
        key: of the recipe that refers to it.
        loaded: its recipe.
        folder: of its run.
        status: done, unfinished (to be resumed) or new.
    """

    name: str
    key: str
    loaded: LoadedRecipe
    folder: Path
    status: str

    def source(self) -> SavedModel:
        """Return its result, present or planned."""
        if self.status == "done":
            return saved_models.find(str(self.folder.resolve()), Path(), self.key)
        return saved_models.planned(self.name, self.loaded, self.folder)


def links(loaded: LoadedRecipe, output: Path) -> list[Link]:
    """Find the stages that a recipe refers to, in the order they run.

    Args:
        loaded: the recipe.
        output: the folder of its own run; those of the stages are next to it.

    Raises:
        RecipeError: such a recipe is missing or has problems, or it refers to further recipes.
    """
    found: dict[str, Link] = {}
    for key, name, verb in _named(loaded):
        if name not in found:
            taken = [output, *(link.folder for link in found.values())]
            found[name] = _link(key, name, verb, loaded, taken)
    return list(found.values())


def _named(loaded: LoadedRecipe) -> list[tuple[str, str, str | None]]:
    """Return the recipes that a recipe refers to: by which key, and their verb."""
    rlhf = loaded.recipe.rlhf
    if rlhf is None:
        return []
    named: list[tuple[str, str, str | None]] = []
    if rlhf.policy:
        named.append(("rlhf.policy", rlhf.policy, None))
    named += [
        (f"rlhf.reward[{number}].model", part.model, "reward")
        for number, part in enumerate(rlhf.reward)
        if isinstance(part, ModelReward)
    ]
    return [each for each in named if each[1].endswith(RECIPES)]


def _link(
    key: str, name: str, verb: str | None, loaded: LoadedRecipe, taken: Sequence[Path]
) -> Link:
    near = loaded.folder / name
    path = near if near.is_file() else recipe_source.find(Path(name))
    stage = recipe_load.load(path, (), verb)
    if _named(stage):
        raise RecipeError(
            f"{key}: {name} refers to further recipes itself",
            "stages of a chain cannot have stages of their own",
            f"run it first: tuner {stage.verb} --recipe {path}, then give its run folder here",
        )
    if key == "rlhf.policy" and stage.task == "reward":
        raise RecipeError(
            f"{key}: {name} trains a reward model",
            f"{path} is for `tuner reward`; a policy must generate text",
            "put it into rlhf.reward: [{model: ...}], and a recipe of `tuner lora` here",
        )
    wanted = content.content_sha256(stage)
    root = taken[0].parent
    same = [run for run in runs.list_runs(root) if run.record.get("content_sha256") == wanted]
    for run in same:
        if run.status == "done":
            return Link(name, key, stage, run.path, "done")
    for run in same:
        if run.status in ("running", "interrupted", "failed"):
            return Link(name, key, stage, run.path, "unfinished")
    return Link(name, key, stage, runs.free_name(root / stage.name, taken), "new")


def carry_out_all(found: Sequence[Link], console: Console) -> dict[str, SavedModel]:
    """Run every stage that is not done, and return the results of all, by the recipe's name.

    Raises:
        TunerError: a stage failed, with its own error and exit code.
        Interrupted: by a signal; the current stage has sealed its checkpoint.
    """
    left: dict[str, SavedModel] = {}
    with StopRequest() as stop:
        for number, link in enumerate(found, 1):
            if link.status == "done":
                if failed := gates.failure(runs.read_run(link.folder).record):
                    raise failed
                console.note(f"stage {link.name} is done: {link.folder}")
            else:
                console.phase(f"stage {number} of {len(found) + 1}: {link.name}")
                _carry_out(link, stop, console)
            left[link.name] = saved_models.find(str(link.folder.resolve()), Path(), link.key)
    return left


def _carry_out(link: Link, stop: StopRequest, console: Console) -> None:
    link.folder.parent.mkdir(parents=True, exist_ok=True)
    recipe, log = link.loaded, link.folder.with_name(f"{link.folder.name}.log")
    stage = Trial(
        name=recipe.name, verb=recipe.verb, recipe=recipe.path, folder=link.folder, log=log
    )
    code, error = carry_out(stage.arguments(), log, stage.name, stop, console.relay)
    if code:
        raise _failure(link, code, error or {}, log)
    log.unlink(missing_ok=True)


def _failure(link: Link, code: int, error: Mapping[str, Any], log: Path) -> TunerError:
    what = f"stage {link.name}: {error.get('what', f'ended with exit code {code}')}"
    if code == 128 + signal.SIGKILL:
        return ResourceError(
            f"stage {link.name}: {error['what']}",
            "killed by the system, most often the out-of-memory killer",
            "run the same command again: it continues from the last checkpoint; if memory is "
            "short, lower train.micro_batch_size in that recipe",
        )
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return Interrupted(code - 128, what, "run the same command again: it continues from there")
    failure = TunerError(
        what,
        str(error.get("why") or f"see {log} and {link.folder}"),
        str(error.get("fix") or "correct it and run the same command again"),
        [str(line) for line in error.get("problems") or ()],
    )
    failure.exit_code, failure.kind = code, str(error.get("kind", "stage"))
    return failure
