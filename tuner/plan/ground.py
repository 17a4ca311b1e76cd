"""The base of a recipe with head, tokenizer and layers, and which parts of it are adapted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.methods import METHODS
from tuner.methods.prompts import MultitaskOptions
from tuner.model import base as bases
from tuner.model import layers
from tuner.model import tokenizer as tokenizers
from tuner.model.adapters.saved_models import adapter_file
from tuner.model.heads import head_for
from tuner.plan import contradictions_export, new_tokens, ranks, refuse_base, start_fit, targets
from tuner.plan import qat as plan_qat

if TYPE_CHECKING:
    from tuner.machine.hardware import Machine
    from tuner.methods.method import Method
    from tuner.model.base import Base
    from tuner.model.heads import Head
    from tuner.model.layers import Skeleton
    from tuner.plan.start import Start
    from tuner.recipe.load import LoadedRecipe
    from tuner.recipe.schema import Recipe


@dataclass(frozen=True)
class RecipeAndBase:
    """A recipe and its base.

    Attributes:
        loaded: the recipe.
        method: the row of its method.
        base: its weights are not loaded.
        head: the head on top of it.
        tokenizer: with the tokens that the recipe adds.
        stop_ids: tokens that end an answer.
        new_ids: of the tokens that the recipe adds.
        vocabulary: embedding rows, new ones included.
        layers: of the base.
        start: the adapter that the run starts from.
    """

    loaded: LoadedRecipe
    method: Method
    base: Base
    head: Head
    tokenizer: Any
    stop_ids: tuple[int, ...]
    new_ids: tuple[int, ...]
    vocabulary: int
    layers: Skeleton
    start: Start | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe as the user gave it."""
        return self.loaded.recipe


def open_recipe_and_base(
    loaded: LoadedRecipe,
    note: Callable[[str], None],
    code_sha256: str | None,
    start: Start | None = None,
) -> RecipeAndBase:
    """Find the base of a recipe, and refuse one that the recipe cannot run on.

    Args:
        loaded: the recipe.
        note: called with a line about slow work.
        code_sha256: of the base's code in the run that is resumed; other code is not run.
        start: the adapter that the run starts from.

    Raises:
        RecipeError, ModelError: there is no such base, or it does not fit the recipe.
    """
    recipe = loaded.recipe
    method = METHODS[recipe.method.name]
    if isinstance(recipe.method, MultitaskOptions) and recipe.method.source is not None:
        adapter_file(recipe.method.source, loaded.folder)
    pinned = {"code_sha256": code_sha256 or recipe.model.code_sha256}
    base = bases.resolve(recipe.model.model_copy(update=pinned), loaded.folder, note)
    base = start_fit.on_base(start, base)
    head = head_for(recipe.model.task, base.config, loaded.task)
    refuse_base.refuse_base(recipe, method, base, head.name)
    new_tokens.refuse_base(recipe, base, head.name)
    tokenizer, new_ids = tokenizers.open_tokenizer(recipe.model, base, loaded.folder)
    rows = tokenizers.rows_for(base.vocabulary_rows, new_ids)
    stop_ids = tokenizers.stop_ids(base.folder)
    if loaded.task == "reward":
        tokenizers.choose_pad(tokenizer, (*stop_ids, *new_ids))
    found = layers.read(base, head.name, rows if new_ids else 0)
    start_fit.refuse_misfit(start, base, found, new_ids)
    return RecipeAndBase(
        loaded, method, base, head, tokenizer, stop_ids, new_ids, rows, found, start
    )


@dataclass(frozen=True)
class Adapted:
    """The parts of the base that the method changes.

    Attributes:
        targets: full names of the modules.
        experts: full names of parameters, the fused weights of experts.
        saved: full names of modules that are trained in full.
        group: inputs that share a scale in quantization-aware training to int4.
        room: tokens that are left for a row.
    """

    targets: list[str]
    experts: tuple[str, ...]
    saved: tuple[str, ...]
    group: int | None
    room: int


def adapt(ground: RecipeAndBase, machine: Machine) -> Adapted:
    """Find what the method changes, and refuse what the base or its artefacts do not support.

    Raises:
        RecipeError, ModelError: with the key to change.
    """
    recipe, base = ground.recipe, ground.base
    contradictions_export.refuse_base(recipe, ground.method, base, ground.head.name, ground.layers)
    if not machine.elsewhere:
        contradictions_export.refuse_missing(recipe)
    group = plan_qat.group_for(recipe, ground.loaded.task, ground.head.name, base, ground.layers)
    targets.refuse_layers(recipe.method, ground.layers, base)
    chosen = targets.targets(recipe, ground.layers, base)
    ranks.refuse_on_experts(recipe.method, base, chosen)
    ranks.refuse_rank(recipe.method, ground.layers, chosen)
    extra = targets.adapted_parts(recipe.method, ground.layers, chosen, base)
    return Adapted(chosen, extra.experts, extra.saved, group, room(ground))


def room(ground: RecipeAndBase) -> int:
    """Return the tokens that are left for a row."""
    return ground.base.context_length - targets.virtual_tokens(ground.recipe, ground.base)
