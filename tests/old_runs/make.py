"""Makes `project/`: run folders as commit 3f6ab52 wrote them. Kept as the record of what it holds.

Later code must still verify, export, chat with and resume these runs, so the folder is never made
again by later code: run this with a checkout of that commit first on the path,

    PYTHONPATH=CHECKOUT python make.py FOLDER

`tests/record/test_old_runs.py` copies the result. Absolute paths are stored as @PROJECT@.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = ("rent", "month", "notice", "party", "clause", "section", "apples", "film", "text", "foo")
PLACE = "@PROJECT@"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LORA = {"name": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]}
# What each run is, and where a signal stops it.
RUNS: dict[str, tuple[dict[str, Any], int | None]] = {
    "done": ({"model": {"dtype": "bfloat16"}, "method": LORA}, None),
    "stopped": ({"method": LORA, "train": {"save_steps": 2}}, 3),
    # What `train.trl` set then has keys of its own now.
    "adam": ({"method": LORA, "train": {"trl": {"adam_beta1": 0.8, "adam_epsilon": 1e-6}}}, 3),
    "prefix": ({"method": {"name": "prefix", "num_virtual_tokens": 3}}, 3),
}


def base(folder: Path) -> None:
    """A tiny Llama; its weights are small integers over 512, so any machine makes the same."""
    alphabet = sorted(ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(BPE({token: n for n, token in enumerate(specials + alphabet)}, []))
    backend.add_special_tokens([AddedToken(text, special=True) for text in specials])
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    draws = np.random.RandomState(7)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            drawn = draws.randint(-127, 128, parameter.shape).astype(np.float32) / 512
            parameter.data = torch.from_numpy(drawn)
    model.to(torch.bfloat16).save_pretrained(folder)


def rows(count: int, start: int) -> str:
    """Instruction rows with answers of one to three words."""
    made = []
    for number in range(start, start + count):
        answer = " ".join(WORDS[(number * 3 + k) % len(WORDS)] for k in range(1 + number % 3))
        made.append(json.dumps({"instruction": f"Say {number}.", "output": answer}))
    return "\n".join(made) + "\n"


def recipe(sections: dict[str, Any]) -> str:
    """Five steps of four rows."""
    train = {"epochs": 1.25, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 0.05}
    tree = {
        "model": {"base": "base", "dtype": "float32", **sections.get("model", {})},
        "data": {"train": "train.jsonl", "eval": "eval.jsonl", "template": "instruction"},
        "method": sections["method"],
        "train": {**train, **sections.get("train", {})},
        "eval": {"max_new_tokens": 4},
        "run": {"device": "cpu"},
    }
    return yaml.safe_dump(tree, sort_keys=False)


def tuner(folder: Path, requests: list[dict[str, Any]]) -> None:
    """Run commands, each with the place of the signal that stops it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.launcher"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "TUNER_CACHE": str(folder.parent / "cache"), "HF_HUB_OFFLINE": "1"},
    )
    for request, line in zip(requests, done.stdout.splitlines(), strict=True):
        wanted = 128 + signal.SIGTERM if request["at"] else 0
        assert json.loads(line)["code"] == wanted, Path(request["log"]).read_text()


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True)
    base(folder / "base")
    assert AutoModelForCausalLM.from_pretrained(folder / "base")
    (folder / "train.jsonl").write_text(rows(16, 0))
    (folder / "eval.jsonl").write_text(rows(4, 50))
    requests: list[dict[str, Any]] = []
    for name, (sections, stop) in RUNS.items():
        (folder / f"{name}.yaml").write_text(recipe(sections))
        verb = "prefix" if name == "prefix" else "lora"
        for suffix, at in (("", stop and ["logged", stop, int(signal.SIGTERM)]), ("-whole", None)):
            if stop or not suffix:
                output = f"out/{name}{suffix}"
                args = [verb, "--recipe", f"{name}.yaml", "--output", output, "--quiet"]
                log = str(folder.parent / f"{name}{suffix}.log")
                requests.append({"args": args, "log": log, "at": at})
    tuner(folder, requests)
    trim(folder)


def trim(folder: Path) -> None:
    """Keep what a later test reads; of the runs that nothing stopped, what a resumed one gets."""
    expected = folder / "expected"
    expected.mkdir()
    for path in folder.glob("out/*-whole"):
        name = path.name.removesuffix("-whole")
        scores = json.loads((path / "run.json").read_text())["scores"]
        (expected / f"{name}.json").write_text(json.dumps(scores, indent=1) + "\n")
        shutil.copy(path / "adapter/adapter_model.safetensors", expected / f"{name}.safetensors")
        if name != "prefix":
            shutil.rmtree(path)
    (folder / "out/prefix-whole").rename(folder / "out/prefix-done")
    for name in ("done", "prefix-done"):
        shutil.rmtree(folder / "out" / name / "checkpoints")
    shutil.rmtree(folder / "out/stopped/checkpoints/step-2", ignore_errors=True)
    (folder / "out/prefix-done/rows.json").unlink()
    for path in sorted(folder.glob("out/*/*")):
        if path.name in ("run.json", "recipe.lock.yaml"):
            text = path.read_text().replace(str(folder), PLACE)
            path.write_text(text.replace(platform.platform(), "Linux-x86_64"))
        elif path.name in ("run.log", "run.lock", "report.html", "data_report.json"):
            path.unlink()


if __name__ == "__main__":
    main()
