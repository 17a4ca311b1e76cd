"""Keys of `rlhf`, `ppo` and `reward` that contradict each other or the machine."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from tuner.machine import packages
from tuner.methods import METHODS
from tuner.rewards.options import ModelReward

if TYPE_CHECKING:
    from tuner.recipe.schema import Recipe
    from tuner.recipe.schema_rlhf import PpoSection, RlhfSection

_OF_ANSWERS = (
    *("reward", "allow_code", "responses_per_prompt", "max_new_tokens", "temperature"),
    *("kl_limit", "missing_eos_penalty", "sample_steps"),
)


def refuse_contradictions(recipe: Recipe, cpu: bool) -> list[str]:
    """Return the contradictions in the sections rlhf and ppo, one problem per line."""
    rlhf, ppo = recipe.rlhf, recipe.ppo
    if rlhf is None:
        return []
    problems = []
    method = METHODS[recipe.method.name]
    if not method.rlhf:
        able = ", ".join(row.name for row in METHODS.values() if row.rlhf)
        problems.append(f"method.name: {method.name} is not supported for rlhf (supported: {able})")
    problems += _vllm(rlhf, cpu)
    if not rlhf.draws:
        return problems + _without_answers(rlhf)
    if not rlhf.reward:
        problems.append(f"rlhf.reward is empty, but {rlhf.algorithm} learns from rewards")
    batch, copies = recipe.train.batch_size, rlhf.copies
    if copies == 1 and rlhf.algorithm != "ppo":
        problems.append(
            f"rlhf.responses_per_prompt: 1, but {rlhf.algorithm} compares the answers to a prompt"
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
        return [f"{given} and rlhf.algorithm: {rlhf.algorithm}; it is for rloo and grpo"]
    if cpu:
        return [f"{given}, but this machine has no usable GPU"]
    if importlib.util.find_spec("vllm") is None:
        return [f"{given}, but vllm is not installed ({packages.install('trl[vllm]')})"]
    return []


def _without_answers(rlhf: RlhfSection) -> list[str]:
    """Return one problem for each key set that has no effect when no answers are sampled."""
    problems = []
    for key in _OF_ANSWERS:
        if getattr(rlhf, key) != type(rlhf).model_fields[key].default:
            what = f"rlhf.{key} and rlhf.algorithm: {rlhf.algorithm}"
            problems.append(f"{what}, which learns from preferences and samples no answers")
    return problems


def _ppo_problems(ppo: PpoSection, rlhf: RlhfSection, batch: int) -> list[str]:
    problems = []
    if batch % ppo.minibatches:
        problems.append(f"ppo.minibatches: {ppo.minibatches} does not divide the batch of {batch}")
    if ppo.value_trunk == "reward" and not any(isinstance(p, ModelReward) for p in rlhf.reward):
        problems.append("ppo.value_trunk: reward, but rlhf.reward has no reward model")
    if ppo.value_trunk == "reward" and ppo.share_trunk:
        problems.append(
            "ppo.share_trunk: true, but the value head is on the reward model (ppo.value_trunk)"
        )
    if bool(ppo.ptx_coefficient) != (ppo.ptx_data is not None):
        problems.append("ppo.ptx_coefficient and ppo.ptx_data must be set together")
    return problems
