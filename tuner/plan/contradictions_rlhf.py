"""Keys of `rlhf`, `ppo` and `reward` that contradict each other or the machine."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tuner.machine import packages
from tuner.methods import METHODS
from tuner.plan.preferences import SMOOTHED
from tuner.rewards.options import ModelReward

if TYPE_CHECKING:
    from tuner.methods.method import Method
    from tuner.recipe.schema import Recipe
    from tuner.recipe.schema_rlhf import PpoSection, RlhfSection

_OF_ANSWERS = (
    *("reward", "allow_code", "responses_per_prompt", "max_new_tokens", "temperature"),
    *("kl_limit", "missing_eos_penalty", "sample_steps"),
)


def contradictions(recipe: Recipe, method: Method, cpu: bool) -> Iterator[str]:
    """Yield what in the sections rlhf and ppo contradicts the rest, one problem per line."""
    rlhf, batch = recipe.rlhf, recipe.train.batch_size
    if rlhf is None:
        return
    if not method.rlhf:
        able = ", ".join(row.name for row in METHODS.values() if row.rlhf)
        yield f"method.name: {method.name} is not supported for rlhf (supported: {able})"
    if rlhf.algorithm == "ppo" and recipe.model.dtype == "float16":
        yield (
            "model.dtype: float16 and rlhf.algorithm: ppo, whose updates have no loss scale; use "
            "bfloat16 or float32"
        )
    yield from _vllm(rlhf, cpu)
    if not rlhf.draws:
        yield from _without_answers(rlhf)
        yield from _of_rows(recipe, rlhf)
        return
    if not rlhf.reward:
        yield (
            f"rlhf.reward is empty, but {rlhf.algorithm} learns from rewards; name one, such as "
            "rlhf.reward: [{model: runs/reward}] or [{rule: length, max: 64}]; rows with better "
            "and worse answers are learned with rlhf.algorithm: dpo"
        )
    if rlhf.copies == 1 and rlhf.algorithm != "ppo":
        yield (
            f"rlhf.responses_per_prompt: 1, but {rlhf.algorithm} compares the answers to a prompt; "
            "set rlhf.responses_per_prompt: 2 or more"
        )
    if batch % rlhf.copies:
        yield (
            f"rlhf.responses_per_prompt: {rlhf.copies} does not divide train.batch_size: {batch}; "
            f"set train.batch_size: {-(-batch // rlhf.copies) * rlhf.copies}"
        )
    if recipe.ppo is not None:
        yield from _ppo(recipe.ppo, rlhf, batch)


def _vllm(rlhf: RlhfSection, cpu: bool) -> Iterator[str]:
    if rlhf.vllm == "none":
        return
    given = f"rlhf.vllm: {rlhf.vllm}"
    if rlhf.algorithm not in ("rloo", "grpo"):
        yield f"{given} and rlhf.algorithm: {rlhf.algorithm}; it is for rloo and grpo"
    elif cpu:
        yield f"{given}, but this machine has no usable GPU"
    elif importlib.util.find_spec("vllm") is None:
        yield f"{given}, but vllm is not installed ({packages.install('trl[vllm]')})"


def _without_answers(rlhf: RlhfSection) -> Iterator[str]:
    """Yield a problem for each key set that has no effect when no answers are sampled."""
    for key in _OF_ANSWERS:
        if getattr(rlhf, key) != type(rlhf).model_fields[key].default:
            what = f"rlhf.{key} and rlhf.algorithm: {rlhf.algorithm}"
            why = "which learns from preferences and samples no answers"
            yield f"{what}, {why}; leave out rlhf.{key}"


def _of_rows(recipe: Recipe, rlhf: RlhfSection) -> Iterator[str]:
    """Yield what contradicts a loss of preferences."""
    if rlhf.kl_coefficient == 0:
        yield (
            f"rlhf.kl_coefficient: 0 and rlhf.algorithm: {rlhf.algorithm}, whose loss would not "
            "depend on the answers; leave out rlhf.kl_coefficient, or set a number above 0"
        )
    if rlhf.algorithm == "kto":
        for key in ("batch_size", "micro_batch_size"):
            if getattr(recipe.train, key) == 1:
                yield (
                    f"train.{key}: 1 and rlhf.algorithm: kto, which estimates the KL from the "
                    f"other answers of a forward pass; set train.{key}: 2 or more"
                )
    if (dpo := recipe.dpo) is None:
        return
    if dpo.label_smoothing not in ("auto", 0) and dpo.loss not in SMOOTHED:
        yield (
            f"dpo.label_smoothing: {dpo.label_smoothing} and dpo.loss: {dpo.loss}, which has none; "
            "set dpo.loss: robust, or leave dpo.label_smoothing out"
        )
    if dpo.label_smoothing == 0 and dpo.loss == "exo_pair":
        yield (
            "dpo.label_smoothing: 0 and dpo.loss: exo_pair, which needs some; leave "
            "dpo.label_smoothing out"
        )
    if dpo.normalize_length and dpo.loss != "sigmoid":
        own = "which is per token anyway" if dpo.loss == "ipo" else "which has no such form"
        yield (
            f"dpo.normalize_length: true and dpo.loss: {dpo.loss}, {own}; leave out "
            + "dpo.normalize_length"
        )


def _ppo(ppo: PpoSection, rlhf: RlhfSection, batch: int) -> Iterator[str]:
    if batch % ppo.minibatches:
        yield (
            f"ppo.minibatches: {ppo.minibatches} does not divide the batch of {batch}; set "
            f"ppo.minibatches: {math.gcd(ppo.minibatches, batch)}"
        )
    if ppo.value_trunk == "reward" and not any(isinstance(p, ModelReward) for p in rlhf.reward):
        yield "ppo.value_trunk: reward, but rlhf.reward has no reward model"
    if ppo.value_trunk == "reward" and ppo.share_trunk:
        yield "ppo.share_trunk: true, but the value head is on the reward model (ppo.value_trunk)"
    if bool(ppo.ptx_coefficient) != (ppo.ptx_data is not None):
        yield "ppo.ptx_coefficient and ppo.ptx_data must be set together"
