"""Errors lead on: each is provoked, what it says is done as printed, and the command goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import tuner
from tests.cli.fixes import (
    RECIPE,
    Fault,
    adds,
    edits,
    fix,
    follows,
    given,
    leaves_out,
    meant,
    moves,
    prepared,
    runs,
    sets,
    without,
)
from tuner import cli
from tuner.cli import other_words

PAIRS = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(16)]
ASKED = [{"question": f"Say {n}.", "reply": f"It is {n}."} for n in range(16)]
LABELLED = [{"text": f"Scene {n}.", "label": ["dull", "fine"][n % 2]} for n in range(16)]
LONG = {"instruction": "Say it.", "output": "It is so. " * 60}
OTHER = {"instruction": "Say all.", "output": "All."}
REWARD = {"rule": "length", "max": 8}
RLHF = {"rlhf.algorithm": "grpo", "rlhf.reward": [REWARD], "rlhf.max_new_tokens": 8}
ASK = [{"prompt": f"Say {n}."} for n in range(16)]
PLAN = ("plan", RECIPE)


def other_key(key: str, value: Any, here: str) -> Fault:
    return Fault(2, f"{key}: .*another tool's name for {here}", moves(key), {key: value})


RECIPES = {
    "a bundled recipe": Fault(
        2, "no recipe legl", meant("legl"), arguments=("plan", "legl", "--set", "model.base=BASE")
    ),
    "rows": Fault(
        2, "train.jsonl is no recipe, but looks like", runs(), arguments=("plan", "train.jsonl")
    ),
    "no recipe": Fault(2, "no recipe is given", runs(), arguments=("plan",)),
    "two recipes": Fault(2, "given twice", runs(), arguments=(*PLAN, "--recipe", RECIPE)),
    "a folder": Fault(
        2, r"\. is a folder", lambda work, said: work.swap("plan .", "") if not said else
        setattr(work, "arguments", ["plan", fix(said).split()[-1].replace("NAME.yaml", RECIPE)]),
        arguments=("plan", "."),
    ),
    "UTF-16": Fault(
        2, "odd.yaml:1: the text is UTF-16",
        edits("odd.yaml", lambda text: text.decode("utf-16").encode(), "save the recipe as UTF-8"),
        arguments=("plan", "odd.yaml", "--set", "model.base=BASE"),
        files={"odd.yaml": "data: {train: train.jsonl}".encode("utf-16")},
    ),
    "a tab": Fault(
        2, "odd.yaml:2:1: a tab is used",
        edits("odd.yaml", lambda text: text.replace(b"\t", b"  "), "indent with spaces"),
        arguments=("plan", "odd.yaml", "--set", "model.base=BASE"),
        files={"odd.yaml": "data:\n\ttrain: train.jsonl\n"},
    ),
    "a key twice": Fault(
        2, "'train' appears twice: line 2 and line 3",
        edits("odd.yaml", lambda text: text.rpartition(b"\n  train")[0], "line 2 and line 3"),
        arguments=("plan", "odd.yaml", "--set", "model.base=BASE"),
        files={"odd.yaml": "data:\n  train: train.jsonl\n  train: eval.jsonl\n"},
    ),
    "an empty recipe": Fault(
        2, "odd.yaml is empty.*\n.*data.train",
        edits("odd.yaml", lambda text: b"data: {train: train.jsonl}", "names at least data.train"),
        arguments=("plan", "odd.yaml", "--set", "model.base=BASE"), files={"odd.yaml": ""},
    ),
    "a section": Fault(2, "evel: unknown section", meant("evel"), {"evel.samples": 1}),
    "a key": Fault(2, "train.epohcs: unknown key", meant("epohcs"), {"train.epohcs": 1}),
    "a key without its section": Fault(
        2, "learning_rate: unknown section; the key belongs", moves("learning_rate"),
        {"learning_rate": 0.01},
    ),
    "a key of another section": Fault(
        2, "data.seed: unknown key; it belongs under run", moves("data.seed"), {"data.seed": 7}
    ),
    "a flag without its section": Fault(
        2, "epochs=1: write it as train.epochs=value or ppo.epochs=value",
        lambda work, said: work.swap("epochs", said.split("write it as ")[1].split("=")[0]),
        arguments=(*PLAN, "--set", "epochs=1"),
    ),
    "another tool's flag": Fault(
        2, "write it as train.epochs=value",
        lambda work, said: work.swap("num_train_epochs", "train.epochs"),
        arguments=(*PLAN, "--set", "num_train_epochs=1"),
    ),
    "a word for a number": Fault(
        2, "train.epochs: expected a number, above 0, not 'many'",
        given("train.epochs", "expected a number", 1), {"train.epochs": "many"},
    ),
    "a choice": Fault(
        2, "train.scheduler: expected one of auto, linear, .*, not 'zigzag'",
        given("train.scheduler", r"expected one of (\w+)"),
        {"train.scheduler": "zigzag"},
    ),
    "all or one row": Fault(
        2, "data.eval: 1.0 may mean all or one",
        given("data.eval", r"write (\d+) for one row"), {"data.eval": 1.0},
    ),
    "all or one step": Fault(
        2, "train.warmup: 1.0 may mean all or one",
        given("train.warmup", r"write (\d+) for one step"), {"train.warmup": 1.0},
    ),
    "a method": Fault(2, "no method 'lorra'", meant("lorra"), {"method.name": "lorra"}),
    "an option of another method": Fault(
        2, "num_virtual_tokens: not an option of lora",
        given("method.name", r"not an option of lora; (\w+)"), {"method.num_virtual_tokens": 4},
    ),
    "a method of another command": Fault(
        2, "`tuner lora` does not train method 'prefix'", runs("--dry-run"),
        {"method.name": "prefix"}, ("lora", RECIPE, "--dry-run"),
    ),
    "a section of another command": Fault(
        2, "the section reward is for `tuner reward`", runs("--dry-run"),
        {"reward.margins": False}, ("sft", RECIPE, "--dry-run"), PAIRS,
    ),
    "a section of another algorithm": Fault(
        2, "the section ppo does not apply to rlhf.algorithm: dpo",
        without("ppo", "leave the section out"),
        {"rlhf.algorithm": "dpo", "ppo.epochs": 1}, PLAN, PAIRS,
    ),
    "a comparison that is planned": Fault(
        2, "the section compare is for `tuner compare`", runs("--dry-run"),
        {"compare.methods": [{"name": "lora"}, {"name": "ia3"}]},
    ),
    "nothing to compare": Fault(
        2, "has no section compare",
        lambda work, said: work.put("compare.methods", [{"name": "lora"}, {"name": "prefix"}])
        if "{methods: [{name: lora}, {name: prefix}]}" in said else None,
        arguments=("compare", RECIPE, "--dry-run"),
    ),
    "a secret": Fault(
        2, "must not hold secrets", without("model.revision", "remove and revoke it"),
        {"model.revision": "hf_CANARYcanary0123456789abcdefghij"},
    ),
    "per_device_train_batch_size": other_key(
        "train.per_device_train_batch_size", 2, "train.micro_batch_size"
    ),
    "gradient_accumulation_steps": other_key("gradient_accumulation_steps", 8, "train.batch_size"),
    "num_train_epochs": other_key("train.num_train_epochs", 1, "train.epochs"),
    "lr_scheduler_type": other_key("train.lr_scheduler_type", "cosine", "train.scheduler"),
    "warmup_ratio": other_key("warmup_ratio", 0.1, "train.warmup"),
    "lora_r": other_key("method.lora_r", 4, "method.r"),
    "lora_alpha": other_key("lora_alpha", 8, "method.alpha"),
    "use_dora": other_key("method.use_dora", True, "method.name: dora"),
    "bf16": other_key("train.bf16", True, "model.dtype: bfloat16"),
    "cutoff_len": other_key("cutoff_len", 128, "data.max_length"),
    "val_set_size": other_key("val_set_size", 0.25, "data.eval"),
    "sample_packing": other_key("data.sample_packing", True, "data.packing"),
    "train_on_inputs": other_key("data.train_on_inputs", True, "data.learn: all"),
    "output_dir": other_key("output_dir", "out", "run.output"),
    "lora_target": other_key("lora_target", "all", "method.target_modules: all-linear"),
    "a method of another tool": Fault(
        2, "'qlora' is another tool's word; set method.name: lora and model.quantize: nf4",
        given("method.name", r"set method\.name: (\w+)"), {"method.name": "qlora"},
    ),
    "a file of another tool": Fault(
        2, "odd.yaml is a configuration of LLaMA-Factory, not a recipe", runs(),
        arguments=("plan", "odd.yaml"),
        files={"odd.yaml": "model_name_or_path: org/tiny\nstage: sft\ndataset: train.jsonl\n"},
    ),
    "optim": Fault(
        2, "train.use_galore: .*optimizer has adamw", without("train.use_galore", "leave it out"),
        {"train.use_galore": True},
    ),
    "report_to": Fault(
        2, r"report_to: .*another tool's name for run\.track: \[tensorboard\]", moves("report_to"),
        {"report_to": "tensorboard"},
    ),
    "an unknown metric": Fault(
        2, "eval.metrics: there is no metric 'acuracy'",
        given("eval.metrics", r"one or more of (\w+)"), {"eval.metrics": ["acuracy"]},
    ),
    "another task's metric": Fault(
        2, "eval.metrics: there is no metric 'kl' for `tuner sft`",
        given("eval.metrics", r"one or more of (\w+)"), {"eval.metrics": ["kl"]},
    ),
    "a metric of labels": Fault(
        2, "label_accuracy, but no held-out row has a label",
        without("eval.metrics", "leave label_accuracy out"), {"eval.metrics": ["label_accuracy"]},
    ),
}  # fmt: skip
DATA = {
    "a file": Fault(
        3, "no file 'trian.jsonl'", meant("trian.jsonl"), {"data.train": "trian.jsonl"}
    ),
    "a template": Fault(
        2, "no template 'instrucion'", meant("instrucion"), {"data.template": "instrucion"}
    ),
    "a chat template as a data template": Fault(
        2, "no template 'chatml'",
        lambda work, said: (sets(0, "model.chat_template")(work, said), leaves_out(work, said)),
        {"data.template": "chatml"},
    ),
    "a name of a template": Fault(
        2, "columns: no template column is called 'instrucion'", meant("instrucion"),
        {"data.template": "instruction",
         "data.columns": {"instrucion": "question", "output": "reply"}}, PLAN, ASKED,
    ),
    "a column of the file": Fault(
        3, "no column 'replay'", meant("replay"),
        {"data.template": "instruction",
         "data.columns": {"instruction": "question", "output": "replay"}}, PLAN, ASKED,
    ),
    "a bad row": Fault(
        3, r"1 row cannot be used.*\n.*train\.jsonl:2", sets(),
        rows=[OTHER, {"instruction": "Say.", "output": ""},
              *({"instruction": f"Say {n}.", "output": "So."} for n in range(12))],
    ),
    "a row that cannot be read": Fault(
        3, "odd.jsonl, line 2", sets(), {"data.train": "odd.jsonl"},
        files={"odd.jsonl": '{"text": "One."}\n{"text": \n{"text": "Two."}\n{"text": "Three."}'},
    ),
    "every row bad": Fault(
        3, "none of the 16 rows can be used.*\n.*empty",
        lambda work, said: work.put("data.columns.completion", "reply")
        if "data.columns" in fix(said) else None,
        {"data.template": "prompt_completion", "data.columns": {"prompt": "question"}}, PLAN,
        [{**row, "completion": ""} for row in ASKED],
    ),
    "every row left out": Fault(
        3, "the train split is empty.*\n.*16 bad",
        lambda work, said: work.put("data.columns.completion", "reply")
        if "data.columns" in fix(said) else None,
        {"data.template": "prompt_completion", "data.columns": {"prompt": "question"},
         "data.max_bad_rows": 99}, PLAN, [{**row, "completion": ""} for row in ASKED],
    ),
    "only disliked answers": Fault(
        3, "16 of 16 rows have an answer that is labelled bad",
        given("data.disliked", "data.disliked: learn", "learn"),
        rows=[{"prompt": f"Say {n}.", "completion": f"{n}.", "label": False} for n in range(16)],
    ),
    "all held out": Fault(3, "data.eval: 16 holds out all 16", sets(), {"data.eval": 16}),
    "held out and trained on": Fault(
        3, "1 rows? of train.jsonl|are also in the training rows",
        given("data.eval", "set data.eval to a fraction", 0.25), {"data.eval": "train.jsonl"},
    ),
    "a label twice": Fault(
        2, "data.labels: a label appears twice", sets(), {"data.labels": ["So.", "No.", "So."]}
    ),
    "labels without words": Fault(
        3, "no word for the label 'dull'", sets(),
        {"data.template": "cloze", "data.labels": ["dull", "fine"]}, PLAN, LABELLED,
    ),
    "more than the context": Fault(
        2, "data.max_length: 99999 is more than the model can take", sets(),
        {"data.max_length": 99999},
    ),
    "a long row": Fault(
        3, "would lose a part of the answer at data.max_length 64", sets(),
        {"data.max_length": 64, "data.eval": 0}, PLAN, [LONG, OTHER],
    ),
    "a long row that is cut": Fault(
        3, "would lose a part of the answer", sets(0, "data.long"),
        {"data.max_length": 64, "data.eval": 0}, PLAN, [LONG, OTHER],
    ),
    "pieces of a chat": Fault(2, "long: split works on plain text", sets(), {"data.long": "split"}),
    "no such reasoning": Fault(
        3, "data.reasoning_column: the data has no column 'thnking'", meant("thnking"),
        {"data.reasoning_column": "thnking"}, PLAN, 
        [{"instruction": f"Say {n}.", "output": "So.", "thinking": "Or?"} for n in range(9)],
    ),
    "another data template": Fault(2, "no template 'alpaca'", sets(), {"data.template": "alpaca"}),
    "another chat template": Fault(2, "no template 'qwen'", leaves_out, {"data.template": "qwen"}),
    "a format of preferences": Fault(
        2, "'pairz' is not a format", meant("pairz"),
        {"data.template": "pairz", "rlhf.algorithm": "dpo"}, PLAN, PAIRS,
    ),
    "cut preferences": Fault(
        2, "data.long: truncate, but preferences", leaves_out,
        {"data.long": "truncate", "rlhf.algorithm": "dpo"}, PLAN, PAIRS,
    ),
    "turns of preferences": Fault(
        2, "data.learn has no place here", leaves_out,
        {"data.learn": "all", "rlhf.algorithm": "dpo"}, PLAN, PAIRS,
    ),
    "long preferences": Fault(
        3, "longer than 8 tokens are never cut", sets(),
        {"data.max_length": 8, "rlhf.algorithm": "dpo"}, PLAN, PAIRS,
    ),
    "long preferences that are held out": Fault(
        3, "no held-out row fits", sets(0, "max_length"),
        {"data.max_length": 32, "data.eval": "long.jsonl", "rlhf.algorithm": "dpo"}, PLAN, PAIRS,
        {"long.jsonl": '{"prompt": "Why?", "chosen": "%s", "rejected": "No."}' % ("It is. " * 9)},
    ),
}  # fmt: skip
MODELS = {
    "a folder": Fault(
        4, "base model '.*/llama-chatml-0x' was not found", meant("BASEx"), {"model.base": "BASEx"}
    ),
    "a run": Fault(
        4, "base model 'runs/one' was not found", meant("runs/one"), {"model.base": "runs/one"},
    ),
    "an address": Fault(
        4, "base model 'https://huggingface.co/org/tiny' was not found",
        given("model.base", r"model\.base: (org/tiny)"),
        {"model.base": "https://huggingface.co/org/tiny"},
    ),
    "a Hub id": Fault(
        4, "'org/none' is not in the local cache and the Hub cannot be reached",
        given("model.base", "a local folder", "org/tiny"), {"model.base": "org/none"},
    ),
    "modules": Fault(
        4, "target_modules names modules.*\n.*q_prj", meant("q_prj"),
        {"method.target_modules": ["q_prj"]},
    ),
    "another tool's word for all modules": Fault(
        4, "all matches no layer", sets(), {"method.target_modules": "all"}
    ),
    "layers": Fault(
        4, "has no layer 9; the last one is number 1",
        given("method.layers", r"the last one is number (\d+)"), {"method.layers": [9]},
    ),
    "virtual tokens": Fault(
        2, "num_virtual_tokens: 9000 is more than half", sets(),
        {"method.name": "prefix", "method.num_virtual_tokens": 9000},
    ),
    "a device": Fault(
        2, "run.device: cuda, but this machine has no usable GPU", sets(), {"run.device": "cuda"}
    ),
    "a type": Fault(
        2, "model.dtype: float16 cannot train on a CPU",
        given("model.dtype", r"use (\w+)"), {"model.dtype": "float16"},
    ),
    "a known token": Fault(
        2, r"'<\|im_end\|>' cannot be added", without("model.new_tokens", "leave it out"),
        {"model.new_tokens": ["<|im_end|>"]},
    ),
    "a chat template": Fault(
        2, "chat_template: there is no template 'qwen33'", meant("qwen33"),
        {"model.chat_template": "qwen33"},
    ),
    "micro-batches": Fault(
        2, "train.micro_batch_size: 3 does not divide train.batch_size: 4", sets(),
        {"train.micro_batch_size": 3},
    ),
    "plain prompts with a template": Fault(
        2, "data.render: raw uses no chat template, but model.chat_template is set",
        leaves_out, {"data.render": "raw", "model.chat_template": "chatml"},
    ),
}  # fmt: skip
REWARDS = {
    "a rule": Fault(
        2, "lenght", meant("lenght"), {**RLHF, "rlhf.reward": [{"rule": "lenght", "max": 8}]},
        PLAN, ASK,
    ),
    "no room for prompts": Fault(
        2, "responses of 99999 tokens leave no room", sets(),
        {**RLHF, "rlhf.max_new_tokens": 99999}, PLAN, ASK,
    ),
    "no reference": Fault(
        3, "exact_answer needs reference answers",
        edits("train.jsonl", lambda text: text.replace(b'."}', b'.", "completion": "It."}'),
              "add a column completion"),
        {**RLHF, "rlhf.reward": [{"rule": "exact_answer"}]}, PLAN, ASK,
    ),
    "code": Fault(
        8, r"reward function own\.py:good was not run", adds(r"add (--set \S+)"),
        {**RLHF, "rlhf.reward": [{"function": "own.py:good"}]}, PLAN, ASK,
        {"own.py": "def good(answers):\n    return [0.0 for _ in answers]\n"},
    ),
    "a file of code": Fault(
        2, "no file for the reward function onw.py:good", meant("onw.py:good"),
        {**RLHF, "rlhf.reward": [{"function": "onw.py:good"}], "rlhf.allow_code": True}, PLAN, ASK,
        {"own.py": "def good(answers):\n    return [0.0 for _ in answers]\n"},
    ),
    "a function": Fault(
        2, "no 'goood' for the reward function", meant("own.py:goood"),
        {**RLHF, "rlhf.reward": [{"function": "own.py:goood"}], "rlhf.allow_code": True}, PLAN, ASK,
        {"own.py": "def good(answers):\n    return [0.0 for _ in answers]\n"},
    ),
}  # fmt: skip
COMMANDS = {
    "a command": Fault(2, "No such command 'paln'", meant("paln"), arguments=("paln", RECIPE)),
    "another tool's command": Fault(
        2, "there is no command 'validate'", runs(), arguments=("validate", RECIPE)
    ),
    "train": Fault(
        2, "there is no command 'train'", runs("--dry-run"), arguments=("train", RECIPE)
    ),
    "preview": Fault(2, "there is no command 'preview'", runs(), arguments=("preview", RECIPE)),
    "a template to show": Fault(
        2, "no bundled data template 'instrucion'", meant("instrucion"),
        arguments=("templates", "show", "instrucion"),
    ),
    "a recipe to show": Fault(
        2, "no bundled recipe 'legl'", meant("legl"), arguments=("recipes", "show", "legl")
    ),
    "a copy over a file": Fault(
        2, "legal would overwrite", runs(), arguments=("recipes", "copy", "legal", "mine"),
        files={"mine/legal.yaml": "mine"},
    ),
    "a run": Fault(2, "no run 'onne'", meant("onne"), arguments=("runs", "show", "onne")),
    "a GPU": Fault(
        2, "--for 4090: unknown GPU", meant("4090"), arguments=(*PLAN, "--for", "4090"),
    ),
    "GPUs of no machine": Fault(
        2, "--devices 2 without --for", adds(r"add (--for \w+)"),
        arguments=(*PLAN, "--devices", "2"),
    ),
    "two ways": Fault(
        2, "--resume and --rehearse cannot be combined",
        lambda work, said: work.arguments.remove("--rehearse") if "one of them" in said else None,
        arguments=(*PLAN, "--resume", "--rehearse"),
    ),
    "a path out of the folder": Fault(
        8, "run.output leaves the current directory", adds(r"with (--output)", "out"),
        {"run.output": "../elsewhere"},
    ),
    "nothing to sweep": Fault(
        2, "nothing to sweep over", adds(r"add (--set \S+)"),
        arguments=("sweep", RECIPE, "--dry-run"),
    ),
    "a sweep without values": Fault(
        2, "--set method.r= has no value",
        lambda work, said: work.swap("method.r=", fix(said).split()[-1]),
        arguments=("sweep", RECIPE, "--dry-run", "--set", "method.r="),
    ),
    "a format": Fault(
        2, "no format 'mergd'", meant("mergd"), {"export.formats": ["adapter", "mergd"]}
    ),
}  # fmt: skip
FAULTS = {
    f"{kind}: {name}": fault
    for kind, faults in (
        ("recipe", RECIPES), ("data", DATA), ("model", MODELS), ("reward", REWARDS),
        ("command", COMMANDS),
    )
    for name, fault in faults.items()
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import make_model

    return make_model("llama", tmp_path_factory.mktemp("bases") / "llama-chatml-0")


@pytest.mark.parametrize("name", FAULTS)
def test_what_an_error_says_to_do_works(name: str, tmp_path: Path, tiny: Path) -> None:
    follows(FAULTS[name], tmp_path, tiny)


def test_names_of_other_tools_are_no_commands_of_this_one() -> None:
    known = {each.name for each in cli.app.registered_groups} | {
        each.name or each.callback.__name__ for each in cli.app.registered_commands if each.callback
    }
    assert {"chat", "data", "sft"} <= known
    for word in known:
        assert other_words.answer(f"No such command '{word}'.") is None
    for word in ("infer", "train", "merge", "eval"):
        said = other_words.answer(f"No such command '{word}'. Did you mean 'prefix'?")
        assert said
        assert said[2].split()[2] in known


def test_what_cannot_be_verified_is_not_to_be_exported(tmp_path: Path, tiny: Path) -> None:
    """A base has nothing to be verified by; a name near a run's is taken for it."""
    said = tuner("verify", str(tiny), cwd=tmp_path)
    assert (said.returncode, "export" in said.stderr) == (4, False)
    assert f"{tiny} is no artefact of tuner" in said.stderr
    assert "fix: name a run folder (tuner runs list)" in said.stderr
    prepared(Fault(0, "", leaves_out), tmp_path, tiny)
    for name in ("runs/onne", "onne"):
        said = tuner("verify", name, cwd=tmp_path)
        assert (said.returncode, "did you mean runs/one?" in said.stderr) == (2, True)
    assert "did you mean" not in tuner("verify", "x", cwd=tmp_path).stderr


def test_copying_a_recipe_again_says_that_it_is_there(tmp_path: Path) -> None:
    first, again = (tuner("recipes", "copy", "legal", "mine", cwd=tmp_path) for _ in range(2))
    assert first.stdout.splitlines()[-1] == "next: tuner plan mine/legal.yaml"
    assert again.stdout.splitlines()[-1].startswith("nothing to copy: all of these files are there")


def test_help_says_what_exit_codes_mean(tmp_path: Path) -> None:
    said = " ".join(tuner("--help", cwd=tmp_path).stdout.split())
    assert "Exit codes: 0 done, 2 recipe, 3 data, 4 model, 5 training, 6 integrity, " in said
