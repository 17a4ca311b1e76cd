"""The models of a plan that learns from preferences: policy and reward models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tuner.errors import ModelError, RecipeError
from tuner.model import tokenizer as vocabulary
from tuner.model.adapters.saved_models import SavedModel, find
from tuner.model.tokenizer import pad_for_scores
from tuner.rewards import code
from tuner.rewards.options import FunctionReward, ModelReward

if TYPE_CHECKING:
    from tuner.methods.options import MethodOptions
    from tuner.model.base import Base
    from tuner.recipe.load import LoadedRecipe
    from tuner.recipe.schema import Recipe

# Outputs of earlier stages of a chain, by the recipe's name for them.
Chained = Mapping[str, SavedModel]


@dataclass(frozen=True)
class RlhfModels:
    """The models besides the policy that is trained.

    Attributes:
        policy: what the policy starts from; None: the bare base.
        judges: reward models by the name the recipe gives them.
        pads: their padding tokens.
    """

    policy: SavedModel | None = None
    judges: dict[str, SavedModel] = field(default_factory=dict)
    pads: dict[str, int] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha256 of the weights of each, in place of the names in the recipe.

        Computed once: every checkpoint has them.
        """
        given = {"rlhf.policy_sha256": self.policy} if self.policy else {}
        given |= {f"rlhf.reward_sha256.{name}": judge for name, judge in self.judges.items()}
        return {key: source.digest() for key, source in given.items() if not source.planned}


def _differences(method: MethodOptions, recipe: Recipe) -> str:
    """Return where a policy's method and the recipe's differ, key by key."""
    ours, theirs = recipe.method.model_dump(), method.model_dump()
    return ", ".join(
        f"method.{key} {theirs.get(key, 'none')} (here {ours.get(key, 'none')})"
        for key in dict.fromkeys([*theirs, *ours])
        if ours.get(key) != theirs.get(key)
    )


def adopt(loaded: LoadedRecipe, chained: Chained) -> tuple[LoadedRecipe, SavedModel | None]:
    """Return the recipe with the policy's own method, and the source of the policy.

    Raises:
        RecipeError: the policy does not exist, or its method is not the recipe's.
    """
    rlhf = loaded.recipe.rlhf
    if rlhf is None or rlhf.policy is None:
        return loaded, None
    source = chained.get(rlhf.policy) or find(rlhf.policy, loaded.folder, "rlhf.policy")
    if source.whole:
        raise RecipeError(
            f"rlhf.policy: {rlhf.policy} is a whole model",
            f"{source.folder} has no adapter",
            f"set model.base: {source.folder}, and leave out rlhf.policy",
        )
    _refuse_tokens(source)
    if source.method is None or source.method == loaded.recipe.method:
        return loaded, source
    given = [key for key, origin in loaded.origins.items() if key.startswith("method.")]
    own = [key for key in given if loaded.origins[key] not in ("default", "verb")]
    if own:
        raise RecipeError(
            "the recipe's method differs from that of rlhf.policy",
            f"{rlhf.policy} was trained with {_differences(source.method, loaded.recipe)}",
            "leave out the section method: training continues with the policy's own adapter",
        )
    recipe = loaded.recipe.model_copy(update={"method": source.method})
    origins = {key: where for key, where in loaded.origins.items() if key not in given}
    origins |= {f"method.{key}": "rlhf.policy" for key in type(source.method).model_fields}
    return replace(loaded, recipe=recipe, origins=origins), source


def _refuse_tokens(source: SavedModel) -> None:
    """Refuse a policy with tokens added to the vocabulary: its base is not the recipe's.

    Raises:
        RecipeError: with the workaround.
    """
    added = source.section is not None and bool(source.section.new_tokens)
    if added or source.config.get(vocabulary.TRAINED):
        raise RecipeError(
            f"rlhf.policy: {source.name} has tokens that its base does not have",
            "not supported for rlhf: their embedding rows are in the adapter",
            "tuner export RUN --format merged, then use that as model.base, without rlhf.policy",
        )


def parties(
    loaded: LoadedRecipe, policy: SavedModel | None, base: Base, tokenizer: Any, chained: Chained
) -> RlhfModels:
    """Check that policy and reward models fit base and tokenizer, without loading weights.

    Raises:
        RecipeError: one does not exist, or is not a reward model.
        ModelError: one has another vocabulary or another chat template.
        SafetyError: a reward function, and the recipe does not allow code.
    """
    rlhf = loaded.recipe.rlhf
    if rlhf is None:
        return RlhfModels()
    if policy is not None and not policy.planned:
        _same_base(policy, base)
    judges: dict[str, SavedModel] = {}
    pads: dict[str, int] = {}
    for number, part in enumerate(rlhf.reward):
        key = f"rlhf.reward[{number}]"
        if isinstance(part, FunctionReward):
            code.check(part.function, loaded.folder, rlhf.allow_code)
        if not isinstance(part, ModelReward):
            continue
        judge = chained.get(part.model) or find(part.model, loaded.folder, f"{key}.model")
        judges[part.model] = judge
        if not judge.planned:
            pads[judge.name] = _pad_of(judge, base, tokenizer)
    return RlhfModels(policy, judges, pads)


def _same_base(policy: SavedModel, base: Base) -> None:
    other = policy.opened_with(base)
    if other.folder.resolve() != base.folder.resolve() and other.name != base.name:
        place = other.name if other.kind in ("alias", "hub") else other.folder
        raise ModelError(
            "rlhf.policy was trained on another base",
            f"{policy.name} is an adapter of {place}, model.base is {base.name}",
            f"set model.base: {place}",
        )


def _pad_of(judge: SavedModel, policy: Base, tokenizer: Any) -> int:
    """Return the padding token of a reward model that scores the policy's answers."""
    base = judge.opened_with(policy)
    own = (judge.folder / "tokenizer_config.json").is_file()
    other = vocabulary.tokenizer_at(base, judge.folder if own else base.folder)
    advice = "train a reward model on this base, or on one with the same tokenizer"
    if other.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"the reward model {judge.name} has another vocabulary",
            f"it has {len(other.get_vocab())} tokens, the policy {len(tokenizer.get_vocab())}, "
            "or the same ones with other ids",
            advice,
        )
    if own and other.chat_template != tokenizer.chat_template:
        raise ModelError(
            f"the reward model {judge.name} was trained with another chat template",
            "it would score texts in a format that it was not trained on",
            "train it with the tokenizer that the policy has",
        )
    return pad_for_scores(other, judge.name)
