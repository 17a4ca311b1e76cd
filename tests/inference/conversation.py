"""Runs `tuner chat`, and answers with plain transformers and peft to compare with."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests.conftest import rows, write_rows
from tests.tokenizers import make_tokenizer
from tuner import cli
from tuner.inference import load
from tuner.inference.engine import Inference
from tuner.model.heads import family
from tuner.recipe.schema_model import ModelSection

ROOT = Path(__file__).resolve().parents[2]
PROBE = torch.randint(0, 500, (1, 20), generator=torch.Generator().manual_seed(3))
# The token that `trainable_tokens` trains.
PROBE[0, 4] = make_tokenizer().convert_tokens_to_ids(".")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


def chat(*arguments: object, typed: str = "Say number 3.\n") -> Done:
    """`tuner chat` in this process, its input a pipe."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO(typed)),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(["chat", "--max-new-tokens", "6", *map(str, arguments)])
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def recipe_for(folder: Path, base: Path, method: dict[str, Any], **sections: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", rows(8))
    recipe = {
        "model": {"base": str(base)},
        "data": {"train": "train.jsonl", "eval": 0.25, "template": "instruction"},
        "method": method,
        "train": {"max_steps": 2, "batch_size": 4},
        "eval": {"enabled": False, "samples": 0},
        **sections,
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "r.yaml"


Make = Callable[..., Path]


def opened(base: Path, *adapters: Path) -> Inference:
    found = load.open_base(ModelSection(base=str(base), dtype="float32"), Path(), "cpu")
    for folder in adapters:
        load.attach(found, folder, folder.name)
    return found


@torch.no_grad()
def logits(network: Any, sequence: bool = False, tasks: bool = False) -> torch.Tensor:
    further: dict[str, Any] = {"decoder_input_ids": PROBE[:, :7]} if sequence else {}
    if tasks:
        further["task_ids"] = torch.tensor([0])
    return network(input_ids=PROBE, **further).logits[0]


def alone(base: Path, folder: Path | None) -> Any:
    """The model as anyone would load it."""
    sequence = family(json.loads((base / "config.json").read_text())) == "encoder-decoder"
    loader = AutoModelForSeq2SeqLM if sequence else AutoModelForCausalLM
    network = loader.from_pretrained(base, dtype=torch.float32)
    return (peft.PeftModel.from_pretrained(network, folder) if folder else network).eval()


def written(network: Any, prompt: list[int], **further: Any) -> list[int]:
    """Greedy continuation by transformers' own loop."""
    ids = torch.tensor([prompt])
    found = network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        do_sample=False,
        num_beams=1,
        eos_token_id=[511],
        pad_token_id=0,
        **further,
    )
    start = 1 if network.config.is_encoder_decoder else len(prompt)
    return found[0, start:].tolist()


def until_eos(tokenizer: Any, ids: list[int]) -> list[int]:
    end = tokenizer.eos_token_id
    return ids[: ids.index(end)] if end in ids else ids


def spoiled(source: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(source, folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return folder
