"""Data: the rows of a plan for any task, and the models that it learns from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tuner.data import sft
from tuner.data.preferences import prepare_preferences
from tuner.data.prompts import prepare_prompts
from tuner.errors import DataError
from tuner.plan import rlhf as plan_rlhf
from tuner.rewards.rules import ExactAnswerRule

if TYPE_CHECKING:
    from tuner.data.example import Example
    from tuner.data.prepared import Prepared
    from tuner.model.adapters.sources import Source
    from tuner.model.heads import Head
    from tuner.plan.ground import Adapted, Ground
    from tuner.plan.rlhf import Parties
    from tuner.recipe.load import LoadedRecipe
    from tuner.recipe.schema_rlhf import RlhfSection


@dataclass(frozen=True)
class Data:
    """What a run trains on.

    Attributes:
        prepared: the rows of the task.
        ptx: supervised rows that PPO mixes in.
        parties: policy and reward models that the recipe names.
    """

    prepared: Prepared
    ptx: list[Example]
    parties: Parties


def read(
    base: Ground, adapted: Adapted, policy: Source | None, chained: Mapping[str, Source]
) -> Data:
    """Read the rows, and check the models that the recipe names.

    Args:
        base: the recipe and its base; gets the chat template that comes with the data.
        adapted: has the tokens that are left for a row.
        policy: what the policy starts from.
        chained: outputs of other stages, by the recipe's name for them.

    Raises:
        DataError, RecipeError, ModelError: the data or a model cannot be trained with.
    """
    prepared, ptx = prepare(base.loaded, base.tokenizer, adapted.room, base.stop_ids, base.head)
    if prepared.chat_template and not base.tokenizer.chat_template:
        base.tokenizer.chat_template = prepared.chat_template
    parties = plan_rlhf.parties(base.loaded, policy, base.base, base.tokenizer, chained)
    return Data(prepared, ptx, parties)


def prepare(
    loaded: LoadedRecipe, tokenizer: Any, room: int, stop_ids: Collection[int], head: Head
) -> tuple[Prepared, list[Example]]:
    """Return the data of the plan's task, and the supervised rows that PPO-ptx mixes in.

    Args:
        loaded: the recipe.
        tokenizer: of the base.
        room: tokens that a row may have.
        stop_ids: further tokens that end an answer.
        head: what the examples are for.
    """
    recipe = loaded.recipe
    common: dict[str, Any] = {
        "folder": loaded.folder,
        "seed": recipe.run.seed,
        "context_length": room,
        "stop_ids": stop_ids,
    }
    if loaded.task == "reward":
        return prepare_preferences(recipe.data, tokenizer, **common), []
    if recipe.rlhf is not None and not recipe.rlhf.draws:
        found = prepare_preferences(recipe.data, tokenizer, **common)
        rows = [pair for ranking in found.train for pair in ranking.apart()]
        return replace(found, train=rows, report={**found.report, "examples_train": len(rows)}), []
    if recipe.rlhf is None:
        return sft.prepare(recipe.data, tokenizer, **common, head=head.name), []
    section = recipe.data
    if recipe.ppo is not None and recipe.ppo.ptx_data is not None and section.long != "error":
        # It applies to the supervised rows then; prompts are never cut.
        section = section.model_copy(update={"long": "auto"})
    prompts = prepare_prompts(
        section, tokenizer, **common, response_length=recipe.rlhf.max_new_tokens
    )
    _refuse_unanswered(recipe.rlhf, prompts)
    ptx: list[Example] = []
    if recipe.ppo is not None and recipe.ppo.ptx_data is not None:
        section = recipe.data.model_copy(
            update={"train": (recipe.ppo.ptx_data,), "eval": 0, "template": "auto", "columns": {}}
        )
        ptx = sft.prepare(section, tokenizer, **common).train
    return prompts, ptx


def _refuse_unanswered(rlhf: RlhfSection, prompts: Prepared) -> None:
    """Refuse a rule that needs reference answers where no row has one."""
    if prompts.report["rows_with_reference"] or not any(
        isinstance(part, ExactAnswerRule) for part in rlhf.reward
    ):
        return
    raise DataError(
        "the rule exact_answer needs reference answers",
        "no row of data.train has an answer next to its prompt",
        "add a column answer or completion, or remove the rule",
    )
