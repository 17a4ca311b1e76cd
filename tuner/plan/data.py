"""Data: the rows of a plan for any task, and the models that it learns from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tuner.data.chat.chat_template import with_defaults
from tuner.data.chat.system_turn import with_system
from tuner.data.preferences import PreferenceData
from tuner.data.prompts import PromptData
from tuner.data.rows import reasoned
from tuner.data.sft import SftData
from tuner.data.thumbs import ThumbData
from tuner.data.tokens.prepared import Inputs
from tuner.errors import RecipeError
from tuner.machine import launch
from tuner.plan import new_tokens, tested
from tuner.plan import rlhf as plan_rlhf
from tuner.plan.prompts import refuse_no_header, refuse_other_prompts
from tuner.recipe.history_rows import BEGUN
from tuner.recipe.schema_rlhf import RewardSection
from tuner.rewards.rules import ExactAnswerRule

if TYPE_CHECKING:
    from tuner.data.pipeline import Pipeline
    from tuner.data.tokens.example import Example
    from tuner.data.tokens.prepared import Prepared, Preview, PromptFormat
    from tuner.model.adapters.saved_models import SavedModel
    from tuner.model.heads import Head
    from tuner.plan.ground import Adapted, RecipeAndBase
    from tuner.plan.rlhf import RlhfModels
    from tuner.recipe.load import LoadedRecipe
    from tuner.recipe.schema import Recipe


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
    parties: RlhfModels


@dataclass(frozen=True)
class Known:
    """Rows that were read for another plan.

    Attributes:
        asked: what they were made from.
        prepared: the rows.
    """

    asked: tuple[Any, ...]
    prepared: Prepared


def read(
    base: RecipeAndBase,
    adapted: Adapted,
    policy: SavedModel | None,
    chained: Mapping[str, SavedModel],
    known: list[Known],
) -> Data:
    """Read the rows, and check the models that the recipe names.

    Args:
        base: the recipe and its base; gets the chat template that comes with the data.
        adapted: has the tokens that are left for a row.
        policy: what the policy starts from.
        chained: outputs of other stages, by the recipe's name for them.
        known: rows that plans of the same command have read; gets these.

    Raises:
        DataError, RecipeError, ModelError: the data or a model cannot be trained with.
    """
    rows = pipeline(base.loaded, base.tokenizer, adapted.room, base.stop_ids, base.head)
    asked = _asked(base, rows)
    same = next((each.prepared for each in known if each.asked == asked), None)
    prepared = same or _doubted(base, rows, rows.prepare())
    if base.recipe.eval.test and same is None:
        held = tested.held_out(base.loaded)
        again = pipeline(held, base.tokenizer, adapted.room, base.stop_ids, base.head)
        prepared = tested.added(prepared, again)
    ptx = _settled(base, rows, prepared, read=same is None)
    if base.loaded.task == "sft":
        known.append(Known(asked, prepared))
    if base.recipe.model.chat_template != "auto" and prepared.chat_template:
        origin = f"model.chat_template: {base.recipe.model.chat_template}"
        prepared = replace(prepared, report={**prepared.report, "chat_template_origin": origin})
    parties = plan_rlhf.parties(base.loaded, policy, base.base, base.tokenizer, chained)
    return Data(prepared, ptx, parties)


def _asked(base: RecipeAndBase, rows: Pipeline[Any]) -> tuple[Any, ...]:
    """All that supervised rows and their tokens come from, the files' contents aside."""
    recipe, inputs = base.recipe, rows.inputs
    model = recipe.model, base.base.folder, base.head, base.tokenizer.chat_template
    inputs = replace(inputs, tokenizer=None, stop_ids=tuple(inputs.stop_ids))
    return (type(rows), inputs, recipe.eval.test, *model)


def preview(base: RecipeAndBase, room: int, count: int) -> tuple[Prepared, list[Preview]]:
    """Read the rows as `read` does, and return the first ones as they are learned.

    Args:
        base: the recipe and its base; gets the chat template that comes with the data.
        room: tokens that are left for a row.
        count: rows to show.

    Raises:
        DataError, RecipeError, ModelError: the data cannot be trained with.
    """
    rows = pipeline(base.loaded, base.tokenizer, room, base.stop_ids, base.head)
    prepared, shown = rows.preview(count)
    _settled(base, rows, prepared, read=True)
    return _doubted(base, rows, prepared), shown


def _doubted(base: RecipeAndBase, rows: Pipeline[Any], prepared: Prepared) -> Prepared:
    """The rows with warnings, the first ones: most are not asked for as the recipe says; the chat
    template that it names writes what the base has no tokens for."""
    recipe = base.recipe
    given = recipe.model.chat_arguments or {}
    report, texts = prepared.report, []
    for name, wanted in prepared.sent.unlike(given).items():
        share = reasoned.share(report)
        some = f" ({share})" if share else ""
        texts.append(
            f"model.chat_arguments: chat, serve and the artefacts will send {_said(name, given)}, "
            f"but most answers are trained with {_said(name, {name: wanted})}, by whether they "
            f"have reasoning{some}: leave {name} out"
            + (", or set data.reasoning: drop" if wanted else "")
        )
    if (finder := rows.maker.finder) and base.loaded.task == "sft":
        found = recipe, base.method, base.head.name, base.tokenizer
        texts += new_tokens.wanted(*found, finder.tags)
    warnings = [*texts, *report.get("warnings", ())]
    return replace(prepared, report={**report, "warnings": warnings})


def _said(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}={json.dumps(arguments[name])}"


def _settled(
    base: RecipeAndBase, rows: Pipeline[Any], prepared: Prepared, *, read: bool
) -> list[Example]:
    """The supervised rows that PPO mixes in; settles the prompts of the rows, which were read now
    or by an earlier plan."""
    finder = rows.maker.finder if read else None
    # A run that began so goes on.
    if finder and BEGUN not in base.loaded.origins.values():
        refuse_no_header(finder.chat)
    ptx = _ptx(base.recipe, rows.inputs)
    date = prepared.report.get("chat_date")
    settle_prompts(
        base.recipe, base.tokenizer, base.stop_ids, prepared.sent, prepared.chat_template, date
    )
    return ptx


def settle_prompts(
    recipe: Recipe,
    tokenizer: Any,
    stop_ids: Collection[int],
    sent: PromptFormat,
    template: str | None,
    date: str | None = None,
) -> None:
    """Give the tokenizer the chat template that writes the prompts of the rows.

    It is saved with the adapter and every artefact, so whoever asks sends the prompt that was
    trained.

    Args:
        recipe: has what is sent by default.
        tokenizer: of the base.
        stop_ids: tokens that end an answer.
        sent: how prompts are sent.
        template: the chat template that the rows were rendered with; None for plain text.
        date: that they show, if the template writes one.

    Raises:
        DataError: another prompt is sent than is trained.
    """
    system = recipe.data.system
    if sent.plain_template is not None:
        tokenizer.chat_template = with_system(sent.plain_template, system)
    elif template:
        given = recipe.model.chat_arguments
        # An empty mapping asks for the template's own defaults.
        wanted = sent.arguments if given is None else {}
        if given:
            wanted = {name: each for name, each in sent.arguments.items() if name not in given}
        tokenizer.chat_template = with_defaults(with_system(template, system), wanted)
    refuse_other_prompts(tokenizer, stop_ids, sent, date)


def pipeline(
    loaded: LoadedRecipe, tokenizer: Any, room: int, stop_ids: Collection[int], head: Head
) -> Pipeline[Any]:
    """Return what prepares the data of the recipe's task.

    Args:
        loaded: the recipe.
        tokenizer: of the base.
        room: tokens that a row may have.
        stop_ids: further tokens that end an answer.
        head: what the examples are for.

    Raises:
        RecipeError: rows have any number of labels, and there is no head for them.
    """
    recipe = loaded.recipe
    rlhf, section = recipe.rlhf, recipe.data
    date = launch.today() if recipe.model.chat_date == "auto" else recipe.model.chat_date
    inputs = Inputs(section, tokenizer, loaded.folder, recipe.run.seed, room, stop_ids, date)
    if section.multi_label and (loaded.task != "sft" or head.name != "classes"):
        raise RecipeError(
            "data.multi_label: true, but the model has no classification head",
            "only a head gives each label a probability of its own; a model that writes answers, "
            "or learns from rewards, does not",
            "set model.task: classification (with tuner lora or another supervised command), or "
            "leave out data.multi_label",
        )
    inputs = replace(inputs, earlier_turns=loaded.earlier_turns)
    if loaded.task == "reward":
        alone = (recipe.reward or RewardSection()).unpaired == "learn"
        return PreferenceData(inputs, alone=alone)
    if rlhf is None:
        return SftData(replace(inputs, formats=loaded.formats), head.name)
    if rlhf.algorithm == "kto":
        return ThumbData(inputs)
    if not rlhf.draws:
        return PreferenceData(inputs, apart=True)
    if recipe.ppo is not None and recipe.ppo.ptx_data is not None:
        # These apply to the supervised rows then; prompts are never cut, and have no answers.
        supervised: dict[str, Any] = {"learn": "answers", "reasoning_column": None}
        supervised |= {} if section.long == "error" else {"long": "auto"}
        supervised |= {} if isinstance(section.max_length, int) else {"max_length": "auto"}
        supervised |= {"cut": "drop"} if section.cut == "answer" else {}
        inputs = replace(inputs, data=section.model_copy(update=supervised))
    references = any(isinstance(part, ExactAnswerRule) for part in rlhf.reward)
    return PromptData(inputs, rlhf.max_new_tokens, references)


def _ptx(recipe: Recipe, inputs: Inputs) -> list[Example]:
    """The supervised rows that PPO mixes in."""
    if recipe.ppo is None or recipe.ppo.ptx_data is None:
        return []
    update = {"train": (recipe.ppo.ptx_data,), "eval": 0, "template": "auto", "columns": {}}
    section = recipe.data.model_copy(update=update)
    return SftData(replace(inputs, data=section)).prepare().train
