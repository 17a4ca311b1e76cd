"""Every key of a recipe with a value that is not its default, and recipes that have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner.errors import RecipeError
from tuner.methods import METHODS
from tuner.recipe.load import LoadedRecipe, flat, load
from tuner.recipe.schema import keys_of, sections
from tuner.recipe.verbs import ALGORITHM_SECTIONS, TASK_SECTIONS

BASE = {"data": {"train": "rows.jsonl"}}
# One valid value for every key, none of them the default; the walk below fails where one lacks.
OTHER: dict[str, str] = {
    "model.base": "llama",
    "model.revision": "main",
    "model.adapter": "runs/first",
    "model.dtype": "float32",
    "model.tf32": "true",
    "model.attention": "eager",
    "model.quantize": "nf4",
    "model.new_tokens": "[<law>, <case>]",
    "model.chat_template": "chatml",
    "model.chat_arguments": "{enable_thinking: false}",
    "model.chat_date": "2026-11-28",
    "model.task": "classification",
    "model.trust_remote_code": "true",
    "model.code_sha256": "0" + "1" * 62 + "f",
    "data.train": "[a.jsonl, b.jsonl]",
    "data.eval": "0.25",
    "data.template": "chat",
    "data.columns": "{prompt: question}",
    "data.labels": "[yes, no]",
    "data.render": "raw",
    "data.max_length": "128",
    "data.long": "split",
    "data.disliked": "drop",
    "data.cut": "oldest_turns",
    "data.draw": "first",
    "data.split": "row",
    "data.label_names": "{0: negative}",
    "data.multi_label": "true",
    "data.max_rows": "7",
    "data.packing": "false",
    "data.reasoning": "drop",
    "data.reasoning_column": "rationale",
    "data.learn": "{roles: [assistant, tool]}",
    "data.system": "Be brief.",
    "data.instruction": "Sort the letter.",
    "data.special_tokens_in_text": "error",
    "data.max_bad_rows": "3",
    "method.name": "rslora",
    "method.continue": "true",
    "method.r": "4",
    "method.alpha": "3.5",
    "method.dropout": "0.25",
    "method.target_modules": "[q_proj, v_proj]",
    "method.allow_partial_targets": "true",
    "method.init": "olora",
    "method.layers": "[0, 3]",
    "method.rank_pattern": "{q_proj: 2}",
    "method.b_rate_ratio": "16",
    "method.experts": "true",
    "method.modules_to_save": "[lm_head]",
    "method.stages": "[{train: all, epochs: 2, learning_rate: 1e-5}]",
    "method.num_virtual_tokens": "8",
    "method.init_text": "Answer shortly.",
    "method.projection": "none",
    "method.hidden_size": "48",
    "method.encoder": "lstm",
    "method.num_layers": "3",
    "method.ranks": "2",
    "method.source": "runs/first",
    "method.source_task": "1",
    "method.size": "24",
    "method.placement": "mlp",
    "method.activation": "relu",
    "method.start_r": "6",
    "method.orthogonality": "0.25",
    "method.block_size": "64",
    "method.factors": "2",
    "method.tokens": "[the, end]",
    "method.coefficients": "77",
    "method.scale": "99.5",
    "method.length": "6",
    "train.epochs": "0.5",
    "train.max_steps": "9",
    "train.batch_size": "5",
    "train.micro_batch_size": "5",
    "train.learning_rate": "1e-3",
    "train.optimizer": "lion",
    "train.scheduler": "cosine",
    "train.floor": "0.1",
    "train.decay": "0.3",
    "train.power": "3",
    "train.cycles": "4",
    "train.embedding_noise": "5",
    "train.label_smoothing": "0.1",
    "train.warmup": "12",
    "train.weight_decay": "0.01",
    "train.max_grad_norm": "2.5",
    "train.gradient_checkpointing": "true",
    "train.qat": "int4",
    "train.save_steps": "11",
    "train.checkpoints": "3",
    "train.logging_steps": "13",
    "train.adam_beta1": "0.85",
    "train.adam_beta2": "0.95",
    "train.adam_epsilon": "1e-6",
    "eval.every": "10%",
    "eval.stop": "{patience: 5}",
    "eval.keep": "best",
    "eval.gate": '["loss <= 2.5"]',
    "eval.test": "test.jsonl",
    "eval.samples_every": "25%",
    "eval.enabled": "false",
    "eval.metrics": "loss",
    "eval.max_rows": "17",
    "eval.samples": "0",
    "eval.max_new_tokens": "19",
    "export.formats": "[adapter, {gguf: q4_k_m}, {nf4: {max_kl: 0.3}}]",
    "export.onto": "original",
    "run.output": "somewhere",
    "run.seed": "23",
    "run.device": "cpu",
    "run.devices": "3",
    "run.nodes": "2",
    "run.strategy": "fsdp",
    "run.timeout": "99",
    "run.deterministic": "true",
    "run.price_per_hour": "2.5",
    "run.track": "[tensorboard, mlflow]",
    "run.name": "second try",
    "run.project": "letters",
    "run.tags": "[legal, short]",
    "reward.margins": "false",
    "reward.centering": "0.5",
    "reward.unpaired": "drop",
    "rlhf.algorithm": "grpo",
    "rlhf.policy": "runs/first",
    "rlhf.reward": "[{rule: length, max: 9}]",
    "rlhf.allow_code": "true",
    "rlhf.responses_per_prompt": "3",
    "rlhf.max_new_tokens": "21",
    "rlhf.temperature": "0.5",
    "rlhf.vllm": "colocate",
    "rlhf.kl_coefficient": "0.25",
    "rlhf.kl_limit": "31",
    "rlhf.missing_eos_penalty": "2.5",
    "rlhf.sample_steps": "33",
    "ppo.epochs": "5",
    "ppo.minibatches": "7",
    "ppo.clip": "0.3",
    "ppo.value_clip": "0.4",
    "ppo.value_coefficient": "0.6",
    "ppo.value_trunk": "reward",
    "ppo.share_trunk": "true",
    "ppo.value_learning_rate": "1e-3",
    "ppo.gamma": "0.9",
    "ppo.gae_lambda": "0.8",
    "ppo.kl_estimator": "k3",
    "ppo.kl_target": "6",
    "ppo.kl_horizon": "77",
    "ppo.kl_stop": "0.7",
    "ppo.whiten_rewards": "true",
    "ppo.whiten_advantages": "false",
    "ppo.score_clip": "4.5",
    "ppo.normalize_scores": "true",
    "ppo.ptx_coefficient": "0.125",
    "ppo.ptx_data": "more.jsonl",
    "grpo.loss": "dr_grpo",
    "grpo.updates": "3",
    "grpo.clip": "0.1",
    "grpo.clip_high": "0.28",
    "grpo.mask_truncated": "true",
    "grpo.redraws": "3",
    "dpo.loss": "robust",
    "dpo.label_smoothing": "0.125",
    "dpo.sft_weight": "0.25",
    "dpo.normalize_length": "true",
    "kto.desirable_weight": "1.25",
    "kto.undesirable_weight": "0.75",
    "simpo.margin": "0.5",
    "simpo.sft_weight": "0.125",
    "cpo.sft_weight": "0.5",
    "compare.methods": "[{name: lora}, {name: full}]",
    "compare.learning_rates": "{lora: 0.5}",
}
KEYS = [(section, key) for section in sections() for key in keys_of(section)]
# The section `compare` is for a command of its own, and no part of a run.
RUN_KEYS = [pair for pair in KEYS if pair[0] != "compare"]
# What a method, or a section other than `data`, cannot do without.
NEEDED: dict[str, dict[str, str]] = {
    "trainable_tokens": {"tokens": "[a]"},
    "compare": {"methods": "[{name: dora}]"},
}


def verb_of(section: str) -> str:
    """The verb of the task that reads a section."""
    return TASK_SECTIONS.get(section, "sft")


def method_with(key: str) -> str:
    return next(name for name, row in METHODS.items() if key in row.options.model_fields)


def method_section(name: str) -> dict[str, str]:
    """The least that a recipe says of a method."""
    return {"name": name, **NEEDED.get(name, {})}


def write(folder: Path, tree: dict[str, Any], name: str = "recipe.yaml") -> Path:
    """Write a recipe with one key a line; values are YAML text as it stands."""
    lines = []
    for section, keys in tree.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {value}" for key, value in keys.items()]
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def with_key(section: str, key: str, value: str) -> dict[str, Any]:
    """A recipe with this key; of a method that has it."""
    tree: dict[str, Any] = {name: dict(keys) for name, keys in BASE.items()}
    if section == "method" and key != "name":
        tree["method"] = method_section(method_with(key))
    if section in ALGORITHM_SECTIONS:
        tree["rlhf"] = {"algorithm": section}
    tree.setdefault(section, dict(NEEDED.get(section, {})))[key] = value
    return tree


def problem(file: Path, *overrides: str, verb: str = "sft") -> RecipeError:
    with pytest.raises(RecipeError) as error:
        load(file, overrides, verb)
    assert error.value.exit_code == 2
    assert "pydantic" not in str(error.value)
    return error.value


def value_of(loaded: LoadedRecipe, section: str, key: str) -> Any:
    return flat(loaded.recipe)[f"{section}.{key}"]


def file_line(folder: Path, word: str) -> int:
    lines = (folder / "recipe.yaml").read_text().splitlines()
    return next(number for number, text in enumerate(lines, 1) if text.strip().startswith(word))
