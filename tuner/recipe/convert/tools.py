"""The tools whose configurations are converted: how they are recognised, and their defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.recipe.other_tools.row import empty, flag
from tuner.schema import strict_yaml

_GROUPED = re.compile(r"[-+]?[0-9]+(_[0-9]+)+")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        name: as its users call it.
        has: returns whether a configuration is one of it.
        defaults: returns what it takes for settings that are left out and that a run depends on.
        flat: returns the settings with one name each.
        remark: what its files never say.
    """

    name: str
    has: Callable[[Mapping[str, Any]], bool]
    defaults: Callable[[Mapping[str, Any]], Settings]
    flat: Callable[[Settings], Settings] = dict
    remark: str = ""


_FACTORY = {
    *("stage", "finetuning_type", "template", "dataset", "do_train", "cutoff_len", "lora_target"),
    *("infer_backend", "export_dir", "dataset_dir"),
}
_AXOLOTL = {
    *("datasets", "pretraining_dataset", "sequence_len", "micro_batch_size", "val_set_size"),
    *("adapter", "lora_r", "num_epochs"),
}


# TRL's.
_GRPO = {"num_generations": 8, "max_completion_length": 256, "temperature": 1.0, "beta": 0.0}


def _factory_defaults(given: Mapping[str, Any]) -> Settings:
    stage = given.get("stage", "sft")
    lora = given.get("finetuning_type", "lora") == "lora"
    return {
        "stage": "sft",
        "finetuning_type": "lora",
        **({"lora_rank": 8, "lora_target": "all"} if lora else {}),
        "cutoff_len": 2048,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 3,
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        **({} if "warmup_steps" in given else {"warmup_ratio": 0}),
        **({} if "eval_dataset" in given else {"val_size": 0}),
        **({} if "evaluation_strategy" in given else {"eval_strategy": "no"}),
        **({"pref_beta": 0.1} if stage in ("dpo", "kto") else {}),
        **({"ppo_epochs": 4} if stage == "ppo" else {}),
        **({"center_rewards_coefficient": 0} if stage == "rm" else {}),
    }


def _flat_v1(settings: Settings) -> Settings:
    """LLaMA-Factory's configurations of version 1 have parts of their own for method and base."""
    peft, quantized = (settings.pop(name, None) or {} for name in ("peft_config", "quant_config"))
    names = {"name": "finetuning_type", "r": "lora_rank", "target_modules": "lora_target"}
    method = {names.get(name, name): value for name, value in peft.items()}
    bits = {"quantization_bit": quantized.get("quantization_bit")} if quantized else {}
    base = {"model_name_or_path": settings.pop("model")}
    return {**base, **(method or {"finetuning_type": "full"}), **bits, **settings}


def _v1_defaults(given: Mapping[str, Any]) -> Settings:
    return {
        "cutoff_len": 2048,
        "micro_batch_size": 1,
        "num_train_epochs": 3,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        **({} if "lr_scheduler_config" in given else {"lr_scheduler_type": "constant"}),
        "val_size": 0,
    }


def _axolotl_defaults(given: Mapping[str, Any]) -> Settings:
    supervised = empty(given.get("rl")) and not flag(given.get("reward_model"))
    whole = empty(given.get("adapter"))
    return {
        **({"adapter": "full"} if whole else {}),
        "sequence_len": 512,
        "micro_batch_size": 1,
        "num_epochs": 1,
        "lr_scheduler": "cosine",
        **({} if "warmup_steps" in given else {"warmup_ratio": 0.03}),
        **({} if "test_datasets" in given else {"val_set_size": 0}),
        **({"rl_beta": 0.1} if given.get("rl") in ("dpo", "ipo", "kto", "orpo") else {}),
        **(_GRPO if given.get("rl") == "grpo" else {}),
        **({"center_rewards_coefficient": 0} if flag(given.get("reward_model")) else {}),
        **({"excess_length_strategy": "drop"} if supervised and _turns(given) else {}),
    }


def _flat_axolotl(settings: Settings) -> Settings:
    """Parts for peft and trl have keys of their own."""
    parts = [settings.pop(name, None) or {} for name in ("peft", "trl")]
    return {**parts[0], **parts[1], **settings}


def _turns(given: Mapping[str, Any]) -> bool:
    """Whether the rows are not plain text, which is cut into pieces."""
    sets = [each for each in given.get("datasets") or [] if isinstance(each, Mapping)]
    return any(
        str(each.get("type")).split(".")[0] not in ("completion", "pretrain") for each in sets
    )


TOOLS = (
    Tool(
        "LLaMA-Factory",
        lambda given: "model_name_or_path" in given and bool(_FACTORY & given.keys()),
        _factory_defaults,
    ),
    Tool(
        "LLaMA-Factory",
        lambda given: isinstance(given.get("model"), str) and "train_dataset" in given,
        _v1_defaults,
        _flat_v1,
        "the command of LLaMA-Factory says whether it is sft or dpo, this file does not: here it "
        "is sft; for pairs, add rlhf: {algorithm: dpo}",
    ),
    Tool(
        "Axolotl",
        lambda given: "base_model" in given and bool(_AXOLOTL & given.keys()),
        _axolotl_defaults,
        _flat_axolotl,
    ),
)


def read(value: Any) -> Any:
    """Return values as these tools' reader does: YAML 1.1, with `yes` and with 500_000."""
    if isinstance(value, dict):
        return {key: read(item) for key, item in value.items()}
    if isinstance(value, list):
        return [read(item) for item in value]
    if isinstance(value, strict_yaml.Plain):
        truth = flag(value)
        if truth is not None:
            return truth
        if _GROUPED.fullmatch(value):
            return int(value.replace("_", ""))
    return strict_yaml.resolve(value)


def recognise(tree: Mapping[str, Any]) -> Tool | None:
    """Return the tool whose configuration this is; None: none that is converted."""
    return next((tool for tool in TOOLS if tool.has(tree)), None)
