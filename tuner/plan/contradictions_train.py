"""Keys of `train` that contradict each other, the method, the task or the base."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from tuner.console.formatting import counted
from tuner.errors import RecipeError
from tuner.machine import packages
from tuner.methods import METHODS
from tuner.model.heads import family
from tuner.plan.optimizers import OPTIMIZERS, decay_steps
from tuner.recipe.schema_train import ADAM_KEYS, OF_SCHEDULE, WITHOUT_ADAM, TrainSection

if TYPE_CHECKING:
    from tuner.methods.method import Method
    from tuner.model.layers import Weight
    from tuner.plan.ground import RecipeAndBase
    from tuner.plan.values import Stage
    from tuner.recipe.schema import Recipe


def refuse_decay(train: TrainSection, stages: Iterable[Stage]) -> None:
    """Refuse a decay that would begin before the warmup has ended.

    Raises:
        RecipeError: with a number of steps that fits.
    """
    if train.scheduler != "wsd":
        return
    for stage in stages:
        room = stage.steps - stage.warmup_steps
        if decay_steps(train, stage.steps) > room:
            raise RecipeError(
                f"train.decay: {train.decay} is longer than the run",
                f"{counted(stage.steps, 'step')}, of which the first {stage.warmup_steps} are "
                "warmup (train.warmup)",
                f"set train.decay: {max(1, room // 5) if room > 1 else 0}",
            )


def contradictions(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    """Yield what contradicts the optimizer and the schedule, one problem per line."""
    train = recipe.train
    row = OPTIMIZERS[train.optimizer]
    given = f"train.optimizer: {row.name}"
    if row.needs and importlib.util.find_spec(row.needs) is None:
        yield f"{given}, but {row.needs} is not installed: run {packages.add(row.needs)}"
    if row.averages:
        yield from _averages(recipe, method, given)
    if row.name == "muon" and not method.matrices:
        able = ", ".join(each.name for each in METHODS.values() if each.matrices)
        yield (
            f"{given} and method.name: {method.name}; Muon updates whole matrices, and "
            f"{method.name} also trains vectors, embeddings or rotations: set "
            f"train.optimizer: adamw, or one of these methods: {able}"
        )
    if row.name in WITHOUT_ADAM:
        for key in ADAM_KEYS:
            if _is_set(train, key):
                yield f"train.{key} and {given}, which has none; leave out train.{key}"
    yield from _schedule(train)


def _averages(recipe: Recipe, method: Method, given: str) -> Iterator[str]:
    train = recipe.train
    if train.scheduler not in ("auto", "constant"):
        yield (
            f"{given} and train.scheduler: {train.scheduler}; its average of the weights takes the "
            "place of a falling rate: leave out train.scheduler"
        )
    if train.adam_beta1 == 0:
        yield f"{given} and train.adam_beta1: 0, which it divides by; leave out train.adam_beta1"
    if not method.whole_at_any_step:
        yield (
            f"{given} and method.name: {method.name}, whose ranks change while the weights are "
            "averaged; set train.optimizer: adamw"
        )
    if recipe.rlhf is not None and recipe.rlhf.draws:
        yield (
            f"{given} and rlhf.algorithm: {recipe.rlhf.algorithm}, whose answers would come from "
            "other weights than those that are kept; set train.optimizer: adamw"
        )


def _is_set(train: TrainSection, key: str) -> bool:
    return bool(getattr(train, key) != TrainSection.model_fields[key].default)


def _schedule(train: TrainSection) -> Iterator[str]:
    """Yield a problem for each key that the schedule does not read."""
    name = train.scheduler
    if name == "auto":
        name = "constant" if OPTIMIZERS[train.optimizer].averages else "linear"
    for key, reader in OF_SCHEDULE.items():
        if _is_set(train, key) and name != reader:
            yield (
                f"train.{key} is for train.scheduler: {reader}, and it is {name}; set "
                f"train.scheduler: {reader}, or leave out train.{key}"
            )
    if train.floor and name == "constant":
        yield "train.floor and train.scheduler: constant, which never falls; leave out train.floor"


def refuse_loss(base: RecipeAndBase) -> None:
    """Refuse changes of the loss and the inputs that a task or a base does not have.

    Raises:
        RecipeError: with the key to leave out.
    """
    train, task = base.recipe.train, base.loaded.task
    problems = []
    if train.label_smoothing and task != "sft":
        why = "whose loss has no targets among tokens"
        problems.append(_unread("label_smoothing", train.label_smoothing, task, why))
    elif train.label_smoothing and base.recipe.data.multi_label:
        problems.append(
            f"train.label_smoothing: {train.label_smoothing:g} and data.multi_label: true, whose "
            "loss has no target among several; leave out train.label_smoothing"
        )
    if train.embedding_noise and task == "rlhf":
        why = "whose reference is computed by the same embeddings"
        problems.append(_unread("embedding_noise", train.embedding_noise, task, why))
    if train.embedding_noise and family(base.base.config) == "encoder-decoder":
        problems.append(
            f"train.embedding_noise: {train.embedding_noise:g}, but {base.base.name} is an "
            "encoder-decoder, whose two parts share their embeddings; leave out "
            "train.embedding_noise"
        )
    if problems:
        raise RecipeError(
            "the recipe asks for what this training does not have",
            problems=problems,
            fix="leave out the keys in each line, as it says",
        )


def _unread(key: str, value: float, task: str, why: str) -> str:
    return f"train.{key}: {value:g} and `tuner {task}`, {why}; leave out train.{key}"


def warnings(recipe: Recipe, device: str, weights: Mapping[str, Weight]) -> list[str]:
    """Return what an optimizer does otherwise than its name says."""
    row = OPTIMIZERS[recipe.train.optimizer]
    said = []
    if row.name == "paged_adamw8bit" and device == "cpu":
        said.append(
            "train.optimizer: paged_adamw8bit is adamw8bit on a CPU: there is no GPU memory to "
            "page out of"
        )
    others = [each for each in weights.values() if not row.trains(each)]
    if row.name == "muon" and others:
        numbers = sum(math.prod(each.shape) for each in others)
        said.append(
            f"train.optimizer: muon leaves {numbers:,} parameters that are no hidden matrices "
            "(embeddings, head, vectors) to AdamW"
        )
    return said
