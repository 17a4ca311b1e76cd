"""Adapters, finished runs, and servers to ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.inference.conversation import ROOT, recipe_for
from tests.inference.serving import KEY, LONGEST, Running, Start, make_adapter
from tests.methods.test_capabilities import OPTIONS
from tuner.console.console import Console
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.run import build, spine


@pytest.fixture(scope="package")
def adapter(
    bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Folder of an adapter whose tensors are all away from their start."""
    root = tmp_path_factory.mktemp("adapters")

    def make(name: str, kind: str = "llama", seed: int = 5) -> Path:
        folder = root / f"{kind}-{name}-{seed}"
        if folder.exists():
            return folder
        method = {"name": name, **OPTIONS.get(name, {})}
        loaded = recipe_load.load(recipe_for(folder / "recipe", bases(kind), method), verb="sft")
        made = plan_make.make(loaded, hardware.detect(), output=folder / "run")
        network = build.start(made, build.load(made)).model
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        network.save_pretrained(folder, save_embedding_layers=False)
        return folder

    return make


@pytest.fixture(scope="package")
def finished(
    bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Folder of a whole run of a method on `llama`."""
    root = tmp_path_factory.mktemp("runs")

    def make(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            recipe = recipe_for(root / f"{name}-recipe", bases("llama"), {"name": name})
            rate = {"lora": 0.01, "full": 0.001}[name]
            loaded = recipe_load.load(recipe, [f"train.learning_rate={rate}"], "sft")
            made = plan_make.make(loaded, hardware.detect(), output=folder)
            spine.run(made, resume=False, console=Console(quiet=True))
        return folder

    return make


@pytest.fixture(scope="package")
def place(bases: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base that never stops by itself, and two adapters."""
    folder = tmp_path_factory.mktemp("serve")
    shutil.copytree(bases("llama"), folder / "base")
    with torch.no_grad():
        network = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        network.lm_head.weight[tokenizer.eos_token_id] = 0
        network.lm_head.weight[2] = 0
        network.save_pretrained(folder / "base")
    make_adapter(folder / "base", folder / "red", 1)
    make_adapter(folder / "base", folder / "blue", 2)
    return folder


@pytest.fixture(scope="package")
def start(place: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> Running:
        words = ["--base", "base", "--adapter", "red", "--adapter", "azure=blue", "--port", "0"]
        process = subprocess.Popen(
            [sys.executable, "-m", "tuner", "serve", "--json", *words, *arguments],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        started.append(process)
        return Running(process)

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="package")
def server(start: Start) -> Running:
    words = ("--max-queue", "40", "--max-request-bytes", "20000", "--max-new-tokens", str(LONGEST))
    return start(*words, TUNER_API_KEY=KEY)


@pytest.fixture(scope="package")
def client(server: Running) -> openai.OpenAI:
    return server.client()


@pytest.fixture(scope="package")
def tokenizer(place: Path) -> Any:
    return AutoTokenizer.from_pretrained(place / "base")


@pytest.fixture(scope="package")
def expected(place: Path, tokenizer: Any) -> Callable[..., str]:
    """The greedy answer of a model to turns, with nothing else loaded."""
    networks: dict[str, Any] = {}
    for name, folder in (("base", None), ("red", "red"), ("azure", "blue")):
        network = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
        networks[name] = (
            peft.PeftModel.from_pretrained(network, place / folder) if folder else network
        )

    def answer(model: str, asked: list[dict[str, str]] | str, tokens: int) -> str:
        text: Any = asked
        if not isinstance(asked, str):
            text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        found = networks[model].generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=[2, tokenizer.eos_token_id],
            pad_token_id=0,
        )
        written = tokenizer.decode(found[0, ids.shape[1] :])
        return str(written if isinstance(asked, str) else written.strip())

    return answer
