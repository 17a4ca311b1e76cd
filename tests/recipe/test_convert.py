"""`tuner recipes convert`: YAMLs of LLaMA-Factory and Axolotl become recipes, the rest a list."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import Done, tuner
from tests.conftest import rows, write_rows
from tests.tools import convert_examples
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import load

FACTORY = """\
# A first try.
model_name_or_path: org/base
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
lora_target: all
dataset: letters.jsonl
template: llama3
cutoff_len: 256
max_samples: 12
per_device_train_batch_size: 2
gradient_accumulation_steps: 3
learning_rate: 1.0e-4
num_train_epochs: 2
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
optim: adamw_8bit
neftune_noise_alpha: 5
report_to: tensorboard
output_dir: saves/first
hub_token: hf_CANARYcanary0123456789abcdefghij
"""
AXOLOTL = """\
base_model: org/base
load_in_4bit: true
datasets:
  - path: letters.jsonl
    type: alpaca
val_set_size: 0.25
adapter: qlora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
sequence_len: 512
sample_packing: false
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 1
learning_rate: 0.0002
optimizer: adamw_torch_fused
wandb_project:
flash_attention: true
special_tokens:
  pad_token: "<pad>"
"""


def converted(folder: Path, text: str, *options: str, code: int = 0) -> Done:
    (folder / "other.yaml").write_text(text, "utf-8")
    done = tuner("recipes", "convert", "other.yaml", *options, cwd=folder)
    assert done.returncode == code, done.stderr
    return done


def recipe_of(folder: Path, text: str, *options: str) -> dict[str, Any]:
    tree = yaml.safe_load(converted(folder, text, *options).stdout)
    assert isinstance(tree, dict)
    return tree


def reduced(text: str, *names: str, **more: Any) -> str:
    """Return a YAML without some keys, and with others."""
    tree = {name: each for name, each in yaml.safe_load(text).items() if name not in names}
    return yaml.safe_dump({**tree, **more}, sort_keys=False)


def test_a_yaml_of_llama_factory_becomes_a_recipe_that_lists_what_is_not_in_it(
    tmp_path: Path,
) -> None:
    text = converted(tmp_path, FACTORY).stdout
    assert yaml.safe_load(text) == {
        "model": {"base": "org/base", "dtype": "bfloat16", "chat_template": "llama3"},
        "data": {
            "train": "letters.jsonl", "eval": 0, "max_length": 256, "max_rows": 12, "draw": "first",
        },
        "method": {"name": "lora", "target_modules": "all-linear", "r": 4},
        "train": {
            "epochs": 2, "batch_size": 6, "learning_rate": 0.0001, "scheduler": "cosine",
            "warmup": 0.1, "optimizer": "adamw8bit", "embedding_noise": 5,
        },
        "run": {"track": ["tensorboard"], "output": "saves/first"},
    }  # fmt: skip
    head = text.partition("model:\n")[0]
    before = head.partition("Left out")[0]
    assert "optimizer: adamw8bit  # optim" in text
    assert "embedding_noise: 5  # neftune_noise_alpha" in text
    assert "--devices N" in before
    assert "CANARY" not in text
    assert "eval: 0  # default of val_size" in text
    assert "batch_size: 6  # per_device_train_batch_size; 2 per device x 3 accumulation" in text


def test_a_yaml_of_axolotl_becomes_a_recipe(tmp_path: Path) -> None:
    text = converted(tmp_path, AXOLOTL, "--devices", "2").stdout
    assert yaml.safe_load(text) == {
        "model": {"base": "org/base", "quantize": "nf4"},
        "data": {
            "train": "letters.jsonl", "eval": 0.25, "template": "instruction", "max_length": 512,
            "cut": "drop",
        },
        "method": {"name": "lora", "r": 8, "alpha": 16, "target_modules": "all-linear"},
        "train": {
            "epochs": 1, "batch_size": 16, "learning_rate": 0.0002, "scheduler": "cosine",
            "warmup": 0.03, "optimizer": "adamw",
        },
    }  # fmt: skip
    assert "assumed" not in text
    assert "Alpaca's headings" in text


@pytest.mark.parametrize("text", [FACTORY, AXOLOTL], ids=["LLaMA-Factory", "Axolotl"])
def test_the_recipe_is_planned_once_base_and_data_are_there(
    text: str, tmp_path: Path, bases: Callable[[str], Path]
) -> None:
    write_rows(tmp_path / "letters.jsonl", rows(24))
    given = reduced(text, "template", "load_in_4bit", adapter="lora")
    given = given.replace("org/base", str(bases("llama")))
    if text is FACTORY:
        given = given.replace("adapter: lora\n", "")
    said = converted(tmp_path, given, "--output", "mine.yaml").stdout
    assert said.rstrip().endswith("written     mine.yaml: tuner plan --recipe mine.yaml")
    loaded = load.load(tmp_path / "mine.yaml", verb=None)
    made = make.make(loaded, hardware.detect(), output=tmp_path / "run")
    assert made.prepared.report["rows_train"] == (12 if text is FACTORY else 18)
    again = converted(tmp_path, given, "--output", "mine.yaml", code=2)
    assert "mine.yaml is there already" in again.stderr


def test_defaults_of_the_other_tool_are_written(tmp_path: Path) -> None:
    """What a YAML leaves out is what its tool does, not what this one does."""
    short = "model_name_or_path: org/base\nstage: dpo\ndataset: pairs.jsonl\n"
    tree = recipe_of(tmp_path, short)
    assert tree["data"] == {"train": "pairs.jsonl", "eval": 0, "max_length": 2048}
    assert tree["method"] == {"name": "lora", "target_modules": "all-linear", "r": 8}
    assert tree["train"] == {
        "epochs": 3, "batch_size": 8, "learning_rate": 5e-5, "scheduler": "linear", "warmup": 0,
    }  # fmt: skip
    assert tree["rlhf"] == {"algorithm": "dpo", "kl_coefficient": 0.1}
    short = (
        "base_model: org/base\nlearning_rate: 1e-5\ndatasets: [{path: a.jsonl, type: completion}]"
    )
    tree = recipe_of(tmp_path, short)
    assert tree["method"] == {"name": "full"}
    assert tree["data"] == {
        "train": "a.jsonl", "eval": 0, "max_length": 512, "template": "text",
    }  # fmt: skip
    assert tree["train"]["learning_rate"] == 1e-5


def test_evaluations_are_those_that_the_other_tool_makes(tmp_path: Path) -> None:
    """LLaMA-Factory makes none without a strategy, and nobody makes any without held-out rows."""
    held = {"val_size": 0.1, "logging_steps": 10, "early_stopping_steps": 2}
    for given, every in (
        ({"eval_strategy": "steps", "eval_steps": 50}, 50),
        ({"evaluation_strategy": "steps"}, 10),
        ({"eval_strategy": "epoch"}, "epoch"),
        ({"eval_steps": 50}, None),
        ({"eval_strategy": "steps", "eval_steps": 50, "val_size": 0}, None),
    ):
        tree = recipe_of(tmp_path, reduced(FACTORY, **{**held, **given}))
        expected = None if every is None else {"every": every, "stop": {"patience": 2}}
        assert tree.get("eval") == expected, given
    threshold = {"early_stopping_patience": 2, "early_stopping_threshold": 0.01}
    text = reduced(AXOLOTL, evals_per_epoch=4, num_epochs=3, **threshold)
    assert recipe_of(tmp_path, text)["eval"] == {
        "every": "8.3333%", "stop": {"patience": 2, "min_change": 0.01},
    }  # fmt: skip


def test_every_kind_of_training_has_its_recipe_or_is_refused(tmp_path: Path) -> None:
    for stage, expected in (
        ("pt", {"data": {"template": "text"}}),
        ("rm", {"reward": {"centering": 0}}),
        ("dpo", {"rlhf": {"algorithm": "dpo", "kl_coefficient": 0.1}}),
        ("kto", {"rlhf": {"algorithm": "kto", "kl_coefficient": 0.1}}),
    ):
        tree = recipe_of(tmp_path, reduced(FACTORY, stage=stage))
        for section, keys in expected.items():
            assert keys.items() <= tree[section].items(), stage
    for name, value, said in (
        ("stage", "bco", "there is no training 'bco' here"),
        ("pref_loss", "aot", "there is no loss 'aot' here"),
        ("finetuning_type", "freeze", "no method trains some layers"),
        ("image_max_pixels", 1024, "images"),
        ("mixture_of_depths", "convert", "no such method"),
        ("quantization_bit", 2, "2 bits"),
    ):
        stage = "dpo" if name == "pref_loss" else "sft"
        done = converted(tmp_path, reduced(FACTORY, **{"stage": stage, name: value}), code=2)
        lines = (tmp_path / "other.yaml").read_text("utf-8").splitlines()
        number = next(n for n, line in enumerate(lines, 1) if line.startswith(f"{name}:"))
        assert f"other.yaml:{number}: {name}: " in done.stderr
        assert said in done.stderr
    full = reduced(FACTORY, "lora_rank", "lora_target", finetuning_type="full", stage="dpo")
    assert "not trained with full" in converted(tmp_path, full, code=2).stderr


def test_what_no_recipe_comes_of_is_an_error(tmp_path: Path) -> None:
    for text, said in (
        ("data: {train: a.jsonl}", "it is a recipe"),
        ("compute_environment: LOCAL_MACHINE", "neither LLaMA-Factory's keys"),
        ("- a list", "is not a recipe"),
        ("model_name_or_path: a\ntemplate: qwen\ninfer_backend: hf", "trains on nothing"),
        (reduced(FACTORY, lora_rank=-3), "other.yaml:5: method.r: expected a whole number"),
    ):
        assert said in converted(tmp_path, text, code=2).stderr, said
    assert tuner("recipes", "convert", "none.yaml", cwd=tmp_path).returncode == 2


def test_learning_from_sampled_answers_keeps_how_they_are_sampled(tmp_path: Path) -> None:
    more = {"stage": "ppo", "reward_model": "runs/reward", "max_new_tokens": 32}
    tree = recipe_of(tmp_path, reduced(FACTORY, "max_samples", **more))
    assert tree["rlhf"] == {
        "algorithm": "ppo", "reward": [{"model": "runs/reward"}], "max_new_tokens": 32,
    }  # fmt: skip
    assert tree["ppo"] == {"epochs": 4}
    trl = {"num_generations": 2, "reward_funcs": ["mine.f"], "top_p": 0.9}
    text = reduced(AXOLOTL, rl="grpo", trl=trl, temperature=0.7)
    tree = recipe_of(tmp_path, text)
    assert tree["rlhf"] == {
        "algorithm": "grpo", "responses_per_prompt": 2, "max_new_tokens": 256, "temperature": 0.7,
        "kl_coefficient": 0.0,
    }  # fmt: skip
    lost = json.loads(converted(tmp_path, text, "--json").stdout)["lost"]
    assert {each["name"] for each in lost} >= {"reward_funcs", "top_p"}
    assert "temperature" not in recipe_of(tmp_path, f"{FACTORY}temperature: 0.5\n").get("rlhf", {})


def test_values_are_read_as_yaml_1_1_has_them(tmp_path: Path) -> None:
    text = FACTORY.replace("cutoff_len: 256", "cutoff_len: 1_024").replace("bf16: true", "bf16: no")
    tree = recipe_of(tmp_path, f"{text}trust_remote_code: Yes\n")
    assert tree["data"]["max_length"] == 1024
    assert tree["model"] == {
        "base": "org/base", "chat_template": "llama3", "trust_remote_code": True,
    }  # fmt: skip


def test_plain_text_has_no_turns_to_choose(tmp_path: Path) -> None:
    sets = [{"path": "a.jsonl", "type": "completion"}]
    text = reduced(AXOLOTL, "datasets", datasets=sets, train_on_inputs=True)
    text += "excess_length_strategy: drop\n"
    tree = recipe_of(tmp_path, text)
    assert tree["data"] == {
        "train": "a.jsonl", "eval": 0.25, "template": "text", "max_length": 512,
    }  # fmt: skip


def test_data_sets_of_llama_factory_are_looked_up(tmp_path: Path) -> None:
    info = {
        "letters": {"file_name": "letters.json", "columns": {"prompt": "ask", "response": "say"}},
        "chats": {"file_name": "chats.json", "formatting": "sharegpt",
                  "columns": {"messages": "turns"}, "num_samples": 5},
        "far": {"hf_hub_url": "org/far"},
    }  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(info), "utf-8")
    text = reduced(FACTORY, "max_samples", dataset="letters, chats, far, near")
    done = converted(tmp_path, text)
    folder = tmp_path / "data"
    assert yaml.safe_load(done.stdout)["data"]["train"] == [
        {"source": str(folder / "letters.json"), "template": "instruction",
         "columns": {"instruction": "ask", "output": "say"}},
        {"source": str(folder / "chats.json"), "rows": 5},
        "org/far",
        "near",
    ]  # fmt: skip
    said = " ".join(done.stdout.replace("#", " ").split())
    assert "'far' is org/far on a hub: download it" in said
    assert "has no 'near': name the file" in said


def test_data_sets_of_axolotl_keep_their_columns(tmp_path: Path) -> None:
    sets = [
        {"path": "a.jsonl", "type": {"field_instruction": "ask", "field_output": "say",
                                     "format": "Q: {instruction}"}},
        {"path": "b.jsonl", "type": "chat_template", "field_messages": "talk",
         "split": "train[:5%]"},
        {"path": "json", "data_files": ["c.jsonl", "d.jsonl"], "type": "completion",
         "field": "body"},
    ]  # fmt: skip
    done = converted(tmp_path, reduced(AXOLOTL, "datasets", datasets=sets))
    text = {"template": "text", "columns": {"text": "body"}}
    assert yaml.safe_load(done.stdout)["data"]["train"] == [
        {"source": "a.jsonl", "template": "instruction",
         "columns": {"instruction": "ask", "output": "say"}},
        {"source": "b.jsonl", "template": "chat", "columns": {"messages": "talk"}},
        {"source": "c.jsonl", **text},
        {"source": "d.jsonl", **text},
    ]  # fmt: skip
    assert "split 'train[:5%]': name a file with these rows" in done.stdout
    assert "its format is not added to the rows" in done.stdout


def test_all_of_a_yaml_is_in_the_recipe_or_in_a_list(tmp_path: Path) -> None:
    """Nothing is lost unseen: each key is an origin, or listed with its reason."""
    for text in (FACTORY, AXOLOTL):
        given = reduced(text, own_key=1)
        (line,) = converted(tmp_path, given, "--json").stdout.splitlines()
        event = json.loads(line)
        listed = {each["name"] for each in (*event["lost"], *event["left_out"])}
        comments = {line.partition("  # ")[2].partition(";")[0] for line in
                    event["recipe"].splitlines()}  # fmt: skip
        lines = {line.strip().partition(":")[0] for line in event["recipe"].splitlines()}
        for name, value in yaml.safe_load(given).items():
            parts = ("gradient_accumulation_steps", "micro_batch_size", "adapter", "load_in_4bit")
            known = name in listed | comments | lines or name in parts
            assert known or value is None, name
        assert any(each["name"] == "own_key" for each in event["lost"])


def test_version_1_of_llama_factory_is_read(tmp_path: Path) -> None:
    text = (
        "model: org/base\ntrain_dataset: sets.yaml\nmax_steps: 4\nmicro_batch_size: 2\n"
        "peft_config: {name: lora, r: 4, lora_alpha: 8, target_modules: all}\n"
        "quant_config: {name: bnb, quantization_bit: 4}\n"
    )
    done = converted(tmp_path, text)
    tree = yaml.safe_load(done.stdout)
    assert tree["model"] == {"base": "org/base", "quantize": "nf4"}
    assert tree["method"] == {"name": "lora", "r": 4, "alpha": 8, "target_modules": "all-linear"}
    assert tree["train"]["scheduler"] == "constant"
    assert "whether it is sft or dpo" in " ".join(done.stdout.replace("#", " ").split())


def test_the_trial_on_examples_counts_what_plans(
    tmp_path: Path, bases: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    examples = {
        "a.yaml": reduced(FACTORY, "hub_token"),
        "b.yml": reduced(AXOLOTL, "load_in_4bit", adapter="lora", revision_of_model="abc"),
        "c.yaml": reduced(FACTORY, "hub_token", stage="bco"),
        "d.yaml": "num_processes: 2\n",
        "e.yaml": reduced(FACTORY, "hub_token", lora_target="odd_proj"),
    }
    for name, text in examples.items():
        (tmp_path / name).write_text(text, "utf-8")
    convert_examples.main(tmp_path, str(bases("llama")))
    said = capsys.readouterr().out
    assert "{'plans': 2, 'refused': 1, 'other': 1, 'failed': 1}" in said
    assert "failed   e.yaml  method.target_modules names modules" in said


@pytest.mark.parametrize(
    ("more", "key", "why"),
    [
        ({"optim": "lion_32bit", "adam_beta2": 0.95}, "adam_beta2", "lion has no moments of Adam"),
        ({"optim": "schedule_free_adamw"}, "scheduler", "averages the weights in place of"),
        ({"lr_scheduler_kwargs": {"num_decay_steps": 9}}, "decay", "only train.scheduler: wsd"),
        ({"stage": "rm", "label_smoothing_factor": 0.1}, "label_smoothing", "only supervised"),
        ({"lr_scheduler_type": "constant", "min_lr": 1e-5}, "floor", "a constant rate has no"),
    ],
)
def test_what_an_optimizer_a_schedule_or_a_task_does_not_read_is_left_out(
    more: dict[str, Any], key: str, why: str, tmp_path: Path
) -> None:
    text = converted(tmp_path, reduced(FACTORY, *more, "neftune_noise_alpha", **more)).stdout
    assert key not in yaml.safe_load(text)["train"]
    assert why in text.partition("Left out")[2].partition("model:\n")[0]
