"""Merging takes the memory of the model, one shard and one layer in float64, in the process that
merges and in the fresh one that proves it; measured on a base of 200 MB in shards of 64 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tokenizers import make_tokenizer

SHARD = 64_000_000
# A layer of 20 MB in float64, and what libraries fetch while they are used.
SLACK = (40 + 40) << 20

_STATUS = """
import sys
def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) << 10
"""
_CHILD = (
    _STATUS
    + """
from tuner.export.proof import fresh_process, measure, reload
import peft, transformers.models.llama.modeling_llama
before = status("VmRSS")
fresh_process.main()
open(sys.argv[2], "w").write(str(status("VmHWM") - before))
"""
)
_PARENT = (
    _STATUS
    + f"""
import json, subprocess
from pathlib import Path
import torch, peft, transformers.models.llama.modeling_llama
torch.set_num_threads(1)
from tuner.machine import heap
from tuner.console.console import Console
from tuner.export import convert, merged, origin as export_origin
from tuner.export.job import Settings
from tuner.recipe.formats import known
place = Path(sys.argv[1])
merged.SHARD = {SHARD}
true = subprocess.run
def run(command, **how):
    return true([command[0], "-c", {_CHILD!r}, command[-1], str(place / "child")], **how)
subprocess.run = run
origin = export_origin.find(str(place / "adapter"))
before = status("VmRSS")
heap.keep_nothing()
settings = Settings(output=place / "out", base=str(place / "base"))
convert.export(origin, known(["merged"]), settings, Console(json=True))
found = {{"parent": status("VmHWM") - before, "child": int((place / "child").read_text())}}
(place / "found.json").write_text(json.dumps(found))
"""
)


def make(place: Path) -> int:
    """A base of 200 MB with an adapter away from its start; bytes of the base."""
    tokenizer = make_tokenizer("chatml")
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=640,
        intermediate_size=1920,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    network = LlamaForCausalLM(config)
    network.save_pretrained(place / "base", max_shard_size=SHARD)
    adapter = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(network, adapter)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    wrapped.save_pretrained(place / "adapter", save_embedding_layers=False)
    for folder in ("base", "adapter"):
        tokenizer.save_pretrained(place / folder)
    return sum(file.stat().st_size for file in (place / "base").glob("*.safetensors"))


@pytest.mark.slow
def test_merging_takes_the_model_and_one_shard(tmp_path: Path) -> None:
    size = make(tmp_path)
    assert size > 3 * SHARD
    done = subprocess.run(
        [sys.executable, "-c", _PARENT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    for process, peak in found.items():
        # Less would mean that it was never in memory.
        assert 0.7 * size < peak < size + SHARD + SLACK, (process, peak / size, found, size)
    assert len(list((tmp_path / "out/merged").glob("*.safetensors"))) > 3
