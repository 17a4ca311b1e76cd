"""What a plan has to know for learning from preferences: policy, judges, their tokenizers, data."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tuner import base as bases
from tuner import data, packages, sources, vocabulary
from tuner.data.preferences import prepare_preferences
from tuner.data.prompts import prepare_prompts
from tuner.errors import DataError, ModelError, RecipeError
from tuner.methods import METHODS
from tuner.methods.options import CONFIG
from tuner.rewards import code
from tuner.rewards.options import ExactAnswerRule, FunctionReward, ModelReward
from tuner.sources import Source

if TYPE_CHECKING:
    from tuner.base import Base
    from tuner.data import Example, Prepared
    from tuner.heads import Head
    from tuner.methods.options import MethodOptions
    from tuner.recipe import Recipe
    from tuner.recipe_load import LoadedRecipe
    from tuner.recipe_rlhf import PpoSection, RlhfSection

_OF_ANSWERS = (
    *("reward", "allow_code", "responses_per_prompt", "max_new_tokens", "temperature"),
    *("kl_limit", "missing_eos_penalty", "sample_steps"),
)

# By a recipe's own name for it; what earlier stages of a chain leave.
Chained = Mapping[str, Source]


@dataclass(frozen=True)
class Parties:
    """Who takes part besides the policy that is trained.

    Attributes:
        policy: what it starts from; None: the bare base.
        judges: reward models by the name the recipe gives them.
        pads: their padding tokens.
    """

    policy: Source | None = None
    judges: dict[str, Source] = field(default_factory=dict)
    pads: dict[str, int] = field(default_factory=dict)

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha256 of the weights of each, which stand for what the recipe calls them.

        Read once: every checkpoint carries them.
        """
        given = {"rlhf.policy_sha256": self.policy} if self.policy else {}
        given |= {f"rlhf.reward_sha256.{name}": judge for name, judge in self.judges.items()}
        return {key: source.digest() for key, source in given.items() if not source.planned}


def _differences(method: MethodOptions, recipe: Recipe) -> str:
    """Where a policy's method and the recipe's differ, key by key."""
    ours, theirs = recipe.method.model_dump(), method.model_dump()
    return ", ".join(
        f"method.{key} {theirs.get(key, 'none')} (here {ours.get(key, 'none')})"
        for key in dict.fromkeys([*theirs, *ours])
        if ours.get(key) != theirs.get(key)
    )


def adopt(loaded: LoadedRecipe, chained: Chained) -> tuple[LoadedRecipe, Source | None]:
    """The source of the policy, and the recipe with the method that it was trained with.

    Raises:
        RecipeError: it is not there, or its method is not the recipe's.
    """
    rlhf = loaded.recipe.rlhf
    if rlhf is None or rlhf.policy is None:
        return loaded, None
    source = chained.get(rlhf.policy) or sources.find(rlhf.policy, loaded.folder, "rlhf.policy")
    if source.whole:
        raise RecipeError(
            f"rlhf.policy: {rlhf.policy} is a whole model",
            f"{source.folder} holds no adapter",
            f"name it as model.base: {source.folder}, and leave out rlhf.policy",
        )
    _refuse_tokens(source)
    if source.method is None or source.method == loaded.recipe.method:
        return loaded, source
    given = [key for key, origin in loaded.origins.items() if key.startswith("method.")]
    own = [key for key in given if loaded.origins[key] not in ("default", "verb")]
    if own:
        raise RecipeError(
            "the recipe's method is not that of rlhf.policy",
            f"{rlhf.policy} was trained otherwise: {_differences(source.method, loaded.recipe)}",
            "leave out the section method: the policy's own adapter is trained on",
        )
    recipe = loaded.recipe.model_copy(update={"method": source.method})
    origins = {key: where for key, where in loaded.origins.items() if key not in given}
    origins |= {f"method.{key}": "rlhf.policy" for key in type(source.method).model_fields}
    return replace(loaded, recipe=recipe, origins=origins), source


def _refuse_tokens(source: Source) -> None:
    """Refuse a policy that has added tokens to the vocabulary: its base is another one than ours.

    Raises:
        RecipeError: with the way round it.
    """
    known = source.folder / CONFIG
    config = json.loads(known.read_text("utf-8")) if known.is_file() else {}
    if (source.section and source.section.new_tokens) or config.get(vocabulary.TRAINED):
        raise RecipeError(
            f"rlhf.policy: {source.name} has tokens that its base has not",
            "not proven for rlhf: their rows lie in the adapter",
            "tuner export RUN --format merged, and name that as model.base, without rlhf.policy",
        )


def parties(
    loaded: LoadedRecipe, policy: Source | None, found: Base, tokenizer: Any, chained: Chained
) -> Parties:
    """Check that policy and judges fit base and tokenizer, as far as can be told without weights.

    Raises:
        RecipeError: one is not there, or is no reward model.
        ModelError: one reads another vocabulary or another chat template.
        SafetyError: a reward function, and the recipe does not allow code.
    """
    rlhf = loaded.recipe.rlhf
    if rlhf is None:
        return Parties()
    if policy is not None and not policy.planned:
        _same_base(policy, found)
    judges: dict[str, Source] = {}
    pads: dict[str, int] = {}
    for number, part in enumerate(rlhf.reward):
        key = f"rlhf.reward[{number}]"
        if isinstance(part, FunctionReward):
            code.check(part.function, loaded.folder, rlhf.allow_code)
        if not isinstance(part, ModelReward):
            continue
        judge = chained.get(part.model) or sources.find(part.model, loaded.folder, f"{key}.model")
        judges[part.model] = judge
        if not judge.planned:
            pads[judge.name] = _pad_of(judge, found, tokenizer)
    return Parties(policy, judges, pads)


def _same_base(policy: Source, found: Base) -> None:
    other = policy.base(found)
    if other.folder.resolve() != found.folder.resolve() and other.name != found.name:
        place = other.name if other.kind in ("alias", "hub") else other.folder
        raise ModelError(
            "rlhf.policy was trained on another base",
            f"{policy.name} is an adapter of {place}, model.base is {found.name}",
            f"set model.base: {place}",
        )


def _pad_of(judge: Source, found: Base, tokenizer: Any) -> int:
    """The padding token of a reward model that reads what the policy writes."""
    base = judge.base(found)
    own = (judge.folder / "tokenizer_config.json").is_file()
    other = bases.tokenizer_at(base, judge.folder if own else base.folder)
    advice = "train a reward model on this base, or on one with the same tokenizer"
    if other.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"the reward model {judge.name} reads another vocabulary",
            f"it has {len(other.get_vocab())} tokens, the policy {len(tokenizer.get_vocab())}, "
            "or the same ones by other numbers",
            advice,
        )
    if own and other.chat_template != tokenizer.chat_template:
        raise ModelError(
            f"the reward model {judge.name} was trained with another chat template",
            "it would judge texts that do not look like those it knows",
            "train it with the tokenizer that the policy has",
        )
    return pad_for_scores(other, judge.name)


def pad_for_scores(tokenizer: Any, name: str) -> int:
    """The padding token of a tokenizer whose model reads scores: one that ends no answer.

    transformers reads a score at the last token that is not padding, so an end token that is the
    padding token, too, would not be seen.

    Raises:
        ModelError: it is an end token.
    """
    pad = tokenizer.pad_token_id
    if pad is None or pad == tokenizer.eos_token_id:
        raise ModelError(
            f"the tokenizer of {name} pads with its end token",
            f"token {pad}: the score of an answer would be read before its end",
            "train it with `tuner reward`, which chooses another padding token",
        )
    return int(pad)


def choose_pad(tokenizer: Any, stop_ids: Collection[int]) -> None:
    """Give the tokenizer of a reward model a padding token that ends nothing.

    Its own if that is so, else its unknown token, another special one, or the last of all.
    """
    ends = {tokenizer.eos_token_id, *stop_ids}
    special = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id]
    ids += [tokenizer.convert_tokens_to_ids(token.content) for token in special]
    ids += sorted(tokenizer.get_vocab().values(), reverse=True)
    chosen = next(number for number in ids if number is not None and number not in ends)
    if chosen != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chosen)


def prepare(
    loaded: LoadedRecipe, tokenizer: Any, room: int, stop_ids: Collection[int], head: Head
) -> tuple[Prepared, list[Example]]:
    """The data of the plan's task, and the supervised rows that PPO-ptx mixes in.

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
        return data.prepare(recipe.data, tokenizer, **common, head=head.name), []
    section = recipe.data
    if recipe.ppo is not None and recipe.ppo.ptx_data is not None and section.long != "error":
        # It is about the supervised rows then; prompts are never cut.
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
        ptx = data.prepare(section, tokenizer, **common).train
    return prompts, ptx


def _refuse_unanswered(rlhf: RlhfSection, prompts: Prepared) -> None:
    """Refuse a rule that compares with the rows' own answers where no row has one."""
    if prompts.report["rows_with_reference"] or not any(
        isinstance(part, ExactAnswerRule) for part in rlhf.reward
    ):
        return
    raise DataError(
        "the rule exact_answer has nothing to compare with",
        "no row of data.train has an answer beside its prompt",
        "add a column answer or completion, or leave out the rule",
    )


def refuse_contradictions(recipe: Recipe, cpu: bool) -> list[str]:
    """What cannot go together in the sections rlhf and ppo, one problem a line."""
    rlhf, ppo = recipe.rlhf, recipe.ppo
    if rlhf is None:
        return []
    problems = []
    method = METHODS[recipe.method.name]
    if not method.rlhf:
        able = ", ".join(row.name for row in METHODS.values() if row.rlhf)
        problems.append(f"method.name: {method.name} is not proven for rlhf (proven: {able})")
    problems += _vllm(rlhf, cpu)
    if not rlhf.draws:
        return problems + _without_answers(rlhf)
    if not rlhf.reward:
        problems.append(f"rlhf.reward is empty, and {rlhf.algorithm} learns from rewards")
    batch, copies = recipe.train.batch_size, rlhf.copies
    if copies == 1 and rlhf.algorithm != "ppo":
        problems.append(
            f"rlhf.responses_per_prompt: 1, and {rlhf.algorithm} compares the answers to a prompt"
        )
    if batch % copies:
        problems.append(
            f"rlhf.responses_per_prompt: {copies} does not divide train.batch_size: {batch}"
        )
    return problems if ppo is None else problems + _ppo_problems(ppo, rlhf, batch)


def _vllm(rlhf: RlhfSection, cpu: bool) -> list[str]:
    if rlhf.vllm == "none":
        return []
    given = f"rlhf.vllm: {rlhf.vllm}"
    if rlhf.algorithm not in ("rloo", "grpo"):
        return [f"{given} and rlhf.algorithm: {rlhf.algorithm}; it draws for rloo and grpo"]
    if cpu:
        return [f"{given}, and this machine has no GPU that can be used"]
    if importlib.util.find_spec("vllm") is None:
        return [f"{given}, and vllm is not installed ({packages.install('trl[vllm]')})"]
    return []


def _without_answers(rlhf: RlhfSection) -> list[str]:
    """The keys that turn nothing where no answers are drawn: a problem each that was turned."""
    problems = []
    for key in _OF_ANSWERS:
        if getattr(rlhf, key) != type(rlhf).model_fields[key].default:
            what = f"rlhf.{key} and rlhf.algorithm: {rlhf.algorithm}"
            problems.append(f"{what}, which learns from preferences and draws no answers")
    return problems


def _ppo_problems(ppo: PpoSection, rlhf: RlhfSection, batch: int) -> list[str]:
    problems = []
    if batch % ppo.minibatches:
        problems.append(f"ppo.minibatches: {ppo.minibatches} does not divide the batch of {batch}")
    if ppo.value_trunk == "reward" and not any(isinstance(p, ModelReward) for p in rlhf.reward):
        problems.append("ppo.value_trunk: reward, and rlhf.reward has no reward model")
    if ppo.value_trunk == "reward" and ppo.share_trunk:
        problems.append("ppo.share_trunk: true, and the value head reads the reward model")
    if bool(ppo.ptx_coefficient) != (ppo.ptx_data is not None):
        problems.append("ppo.ptx_coefficient and ppo.ptx_data only have a meaning together")
    return problems
