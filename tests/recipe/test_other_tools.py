"""Keys and values of other tools: one table, and what an error says of each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.recipe.keys import problem
from tuner.recipe.other_tools import answer
from tuner.recipe.other_tools.table import TABLE
from tuner.recipe.other_tools.unneeded import UNNEEDED
from tuner.recipe.other_tools.words import CHAT_TEMPLATES, VALUES
from tuner.recipe.schema import Recipe, keys_of, sections

ROWS = (*TABLE, *UNNEEDED)
KNOWN = {f"{name}.{key}" for name in sections() for key in keys_of(name)} | {*sections()}
ODD: tuple[Any, ...] = (True, False, 0, 8, 0.5, -1, 1e400, "x", "a,b", ["a"], [{"path": "x"}],
                        {"a": 1}, "auto", "1e-4")  # fmt: skip
# Each key with a value, as its tool's users write it, and what is said.
SAID: dict[str, tuple[Any, str]] = {
    "cutoff_len": (2048, "another tool's name for data.max_length: 2048"),
    "sequence_len": (4096, "another tool's name for data.max_length: 4096"),
    "num_train_epochs": (3.0, "another tool's name for train.epochs: 3.0"),
    "val_set_size": (0.05, "another tool's name for data.eval: 0.05"),
    "lora_rank": (8, "another tool's name for method.r: 8"),
    "lora_r": (8, "another tool's name for method.r: 8"),
    "lora_target": ("all", "another tool's name for method.target_modules: all-linear"),
    "lora_target_modules": (
        "q_proj,v_proj", "another tool's name for method.target_modules: [q_proj, v_proj]",
    ),
    "adapter": ("qlora", "another tool's name for method.name: lora and model.quantize: nf4"),
    "base_model": ("org/base", "another tool's name for model.base: org/base"),
    "dataset": ("a.jsonl, b.jsonl", "another tool's name for data.train: [a.jsonl, b.jsonl]"),
    "datasets": (
        [{"path": "a.jsonl", "type": "alpaca"}],
        "another tool's name for data.train: [{source: a.jsonl, template: instruction}]",
    ),
    "report_to": ("wandb", "another tool's name for run.track: [wandb]"),
    "use_tensorboard": (True, "another tool's name for run.track: [tensorboard]"),
    "use_swanlab": (False, "another tool's name for run.track; leave it out: a run has no"),
    "wandb_project": ("a", "another tool's name for run.project: a and run.track: [wandb]"),
    "run_name": ("first", "another tool's name for run.name: first"),
    "wandb_entity": ("team", "a key of other tools; leave it out: where a tracker's runs go"),
    "load_in_4bit": (True, "another tool's name for model.quantize: nf4"),
    "neftune_noise_alpha": (5, "another tool's name for train.embedding_noise: 5"),
    "label_smoothing_factor": (0.1, "another tool's name for train.label_smoothing: 0.1"),
    "gradient_clipping": (0, "another tool's name for train.max_grad_norm: none (0 clips nothing"),
    "cosine_min_lr_ratio": (0.1, "another tool's name for train.floor: 0.1"),
    "lr_scheduler_kwargs": (
        {"num_decay_steps": 20, "min_lr_ratio": 0.1, "decay_type": "cosine"},
        "name for train.decay: 20 and train.floor: 0.1 (without decay_type)",
    ),
    "save_total_limit": (2, "another tool's name for train.checkpoints: 2"),
    "eval_steps": (0.1, "another tool's name for eval.every: \"10%\""),
    "evaluation_strategy": ("epoch", "another tool's name for eval.every: epoch"),
    "evals_per_epoch": (4, "another tool's name for eval.every: \"25%\" (4 times an epoch)"),
    "eval_strategy": ("steps", "another tool's name for eval.every: 500 (as often as it logs"),
    "early_stopping_threshold": (0.1, "another tool's name for eval.stop; leave it out: only next"),
    "early_stopping": (False, "eval.stop; leave it out: training runs to its end here, too"),
    "early_stopping_patience": (3, "another tool's name for eval.stop: {patience: 3}"),
    "load_best_model_at_end": (True, "another tool's name for eval.keep: best"),
    "greater_is_better": (False, "which way is better follows from the metric"),
    "deepspeed": ("ds.json", "another tool's name for run.strategy; leave it out: auto is ddp"),
    "fsdp": (["full_shard"], "another tool's name for run.strategy: fsdp"),
    "bf16": (True, "another tool's name for model.dtype: bfloat16"),
    "optim": ("paged_adamw_8bit", "another tool's name for train.optimizer: paged_adamw8bit"),
    "optimizer_type": ("shampoo", "no optimizer 'shampoo' here; train.optimizer has adamw, "),
    "use_muon": (True, "another tool's name for train.optimizer: muon"),
    "use_galore": (True, "tuner has no such key: train.optimizer has adamw, adamw8bit"),
    "lr_scheduler_type": ("constant_with_warmup", "name for train.scheduler: constant (with "),
    "quantization_bit": (4, "another tool's name for model.quantize: nf4"),
    "stage": ("kto", "another tool's name for rlhf.algorithm: kto"),
    "pref_loss": ("ipo", "another tool's name for dpo.loss: ipo"),
    "pref_ftx": (0.5, "another tool's name for dpo.sft_weight: 0.5"),
    "dpo_label_smoothing": (0.1, "another tool's name for dpo.label_smoothing: 0.1"),
    "simpo_gamma": (0.5, "another tool's name for simpo.margin: 0.5"),
    "cpo_alpha": (0.5, "another tool's name for cpo.sft_weight: 0.5"),
    "kto_chosen_weight": (1.5, "another tool's name for kto.desirable_weight: 1.5"),
    "kto_undesirable_weight": (0.5, "another tool's name for kto.undesirable_weight: 0.5"),
    "pref_beta": (0.2, "another tool's name for rlhf.kl_coefficient: 0.2"),
    "rl": ("dpo", "another tool's name for rlhf.algorithm: dpo"),
    "max_samples": (100, "another tool's name for data.max_rows: 100 and data.draw: first"),
    "use_dora": (True, "another tool's name for method.name: dora"),
    "use_reentrant_gc": (True, "how memory is saved is the plan's"),
    "additional_target": ("embed_tokens,lm_head", "method.modules_to_save: [embed_tokens, lm_head"),
    "processor_type": ("AutoProcessor", "rows with images, sounds or videos are not trained on"),
}  # fmt: skip


def said_of(folder: Path, text: str) -> list[str]:
    (folder / "recipe.yaml").write_text(text, "utf-8")
    return problem(folder / "recipe.yaml").problems


def test_the_table_is_of_hundreds_of_keys_each_once_and_leads_to_keys_that_there_are() -> None:
    names = [name for row in ROWS for name in row.names.split()]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert len(names) > 500
    assert answer.places() - KNOWN == set()
    assert {*VALUES} - KNOWN == set()


@pytest.mark.parametrize("name", SAID)
def test_a_key_of_another_tool_is_answered_with_the_key_here(name: str) -> None:
    value, said = SAID[name]
    assert said in str(answer.key(name, value, {}))
    assert said in str(answer.key(name.replace("_", "-"), value, {}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["tensorboard", "clearml"], "run.track: [tensorboard] (clearml is not there)"),
        ("mlflow,wandb", "run.track: [mlflow, wandb]"),
        ("none", "run.track"),
        ("all", "run.track; leave it out: trackers are named one by one"),
        ("comet_ml", "run.track; leave it out: comet_ml is not there"),
    ],
)
def test_trackers_are_answered_by_name(given: Any, said: str) -> None:
    assert f"another tool's name for {said}" in str(answer.key("report_to", given, {}))


def test_every_row_answers_whatever_its_value_is() -> None:
    """No value breaks a message, and what it says to write is a key that there is."""
    for row in ROWS:
        for name in row.names.split():
            for value in ODD:
                assert answer.key(name, value, {name: value}), (name, value)
                here = answer.take(name, value, {name: value})
                assert here is not None
                assert {*here.keys} <= KNOWN, (name, value)
                assert here.keys or here.said, (name, value)


def test_rows_per_device_and_steps_are_multiplied() -> None:
    others = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    for name in others:
        said = answer.key(name, others[name], others)
        assert said is not None
        assert "train.batch_size: 16 (2 per device x 8 accumulation steps x 1 device" in said
    own = {"batch_size": 32, "per_device_train_batch_size": 2}
    said = answer.key("per_device_train_batch_size", 2, own)
    assert said == (
        "another tool's name for train.micro_batch_size: 2 (train.batch_size counts the rows of a "
        "whole step)"
    )


def test_keys_are_answered_at_every_depth_with_their_line(tmp_path: Path) -> None:
    problems = said_of(
        tmp_path,
        "base_model: org/base\n"
        "data:\n"
        "  train:\n"
        "    - {path: a.jsonl, type: alpaca, ds_type: json}\n"
        "  sequence_len: 512\n"
        "train: {num_epochs: 2, optim: lion_8bit}\n"
        "method: {lora_r: 8}\n"
        "template: qwen\n",
    )
    expected = (
        "recipe.yaml:1: base_model: unknown section; another tool's name for model.base: org/base",
        "recipe.yaml:4: data.train.0.path: unknown key; another tool's name for source",
        "data.train.0.type: unknown key; another tool's name for template: instruction",
        "recipe.yaml:5: data.sequence_len: unknown key; another tool's name for data.max_length",
        "recipe.yaml:6: train.num_epochs: unknown key; another tool's name for train.epochs: 2",
        "recipe.yaml:6: train.optim: unknown key; another tool's name for train.optimizer; no "
        "optimizer 'lion_8bit' here; train.optimizer has adamw, adamw8bit",
        "recipe.yaml:7: method.lora_r: unknown key; another tool's name for method.r: 8",
        "recipe.yaml:8: template: unknown section; the key belongs under data, and 'qwen' is "
        "another tool's word; leave data.template out",
    )
    for line in expected:
        assert any(line in each for each in problems), (line, problems)


def test_a_key_that_is_ours_is_never_called_another_tools(tmp_path: Path) -> None:
    for section, key in [("train", "weight_decay"), ("run", "seed"), ("method", "target_modules")]:
        (line,) = said_of(tmp_path, f"data: {{train: a.jsonl, {key}: 1}}\n")
        assert f"it belongs under {section}" in line


WRONG = {
    "method: qlora": "set method.name: lora and model.quantize: nf4",
    "method: {name: qlora}": "set method.name: lora and model.quantize: nf4",
    "method: {name: prefix_tuning}": "set method.name: prefix",
    "method: {name: freeze}": "no method trains some layers in full",
    "method: {name: pissa}": "leave method.name out, and set method.init: pissa",
    "model: {quantize: 4bit}": "set model.quantize: nf4",
    "model: {quantize: true}": "set model.quantize: nf4",
    "model: {dtype: bf16}": "set model.dtype: bfloat16",
    "model: {attention: flash_attention_2}": "set model.attention: auto",
    "data: {train: a.jsonl, learn: assistant}": "set data.learn: answers",
    "data: {train: a.jsonl, render: chatml}": "out, and set model.chat_template: chatml",
    "train: {scheduler: constant_with_warmup}": "set train.scheduler: constant",
    "train: {scheduler: warmup_stable_decay}": "set train.scheduler: wsd",
    "train: {optimizer: paged_adamw_8bit}": "set train.optimizer: paged_adamw8bit",
    "train: {max_grad_norm: false}": "set train.max_grad_norm: none",
    "run: {device: gpu}": "set run.device: cuda",
    "run: {strategy: zero3}": "set run.strategy: fsdp",
    "rlhf: {algorithm: ipo}": "set rlhf.algorithm: dpo and dpo.loss: ipo",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_value_of_another_tool_is_answered_with_the_value_here(tmp_path: Path, text: str) -> None:
    data = "" if text.startswith("data") else "data: {train: a.jsonl}\n"
    problems = said_of(tmp_path, f"{data}{text}\n")
    (line,) = [each for each in problems if "is another tool's word; " in each]
    assert WRONG[text] in line


def test_values_that_are_ours_are_never_called_another_tools() -> None:
    schema = Recipe.model_json_schema()["$defs"]
    ours = [("method.name", "lora"), ("method.name", "full"), ("data.template", "chat")]
    for section, model in (("model", "ModelSection"), ("train", "TrainSection"),
                           ("data", "DataSection"), ("run", "RunSection"),
                           ("rlhf", "RlhfSection")):  # fmt: skip
        for key, entry in schema[model]["properties"].items():
            ours += [(f"{section}.{key}", value) for value in entry.get("enum", ())]
    for place, value in [*ours, ("method.target_modules", ["all-linear"])]:
        assert answer.value(place, value) is None, (place, value)


def test_chat_templates_of_other_tools_are_bundled_ones() -> None:
    from tuner.data.bundled_chats import names as bundled_names

    bundled = {*bundled_names()}
    assert {*CHAT_TEMPLATES.values()} == bundled
