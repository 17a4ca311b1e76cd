"""What the plan says of memory: what backward keeps, the peak that is then measured, what fits."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tuner.errors import ResourceError
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.plan.memory import activations, estimate, fit
from tuner.recipe import load as recipe_load
from tuner.run import build
from tuner.tasks.sft import token_loss

GIB = 1 << 30
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": {"name": "lora", "r": 16}},
    "qlora": {"method": {"name": "lora", "r": 16}, "model": {"quantize": "nf4"}},
    "full": {"method": {"name": "full"}},
    "prefix": {"method": {"name": "prefix", "num_virtual_tokens": 16}},
}
# Rows of about 200 tokens, most of them learned.
LONG = [
    {"instruction": f"Say number {n}.", "output": " ".join([f"clause {n + k}" for k in range(70)])}
    for n in range(8)
]


def make(recipe: Path, host: hardware.Machine | None = None) -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="sft")
    return plan_make.make(loaded, host or hardware.detect(), output=recipe.parent / "unused")


def saved_bytes(made: plan.Plan, count: int) -> int:
    """What autograd holds when the first rows of the run have gone forward: each storage once,
    without what is held anyway, and without the logits."""
    network = build.start(made, build.load(made)).model.train()
    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*network.parameters(), *network.buffers())
    }
    batch = made.training_collate(made.prepared.train[:count])
    labels = batch.pop("labels")
    held: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    half = made.dtype == "bfloat16"
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        loss = token_loss(network(**batch), labels)
    assert loss.requires_grad
    logits = (2 if half else 4) * labels[:, 1:].numel() * made.base.vocabulary_rows
    return sum(held.values()) - logits


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("name", [*METHODS, "prompt", "top", "half"])
def test_activations_are_what_autograd_saves(
    name: str, kind: str, make_recipe: Callable[..., Path]
) -> None:
    further = {
        "prompt": {"method": {"name": "prompt", "num_virtual_tokens": 5}},
        "top": {"method": {"name": "lora", "layers": [1]}},
        "half": {"method": {"name": "lora"}, "model": {"dtype": "bfloat16"}},
    }
    made = make(make_recipe(kind, data_rows=LONG, **(METHODS | further)[name]))
    first = made.prepared.train[:4]
    shape = made.shape
    seen = estimate.RowLengths(
        [row.num_tokens for row in first],
        [row.num_targets for row in first],
        4,
        True,
        shape.rows.shared,
    )
    told = estimate.estimate(replace(shape, rows=seen), 4, False)
    assert told.activations == pytest.approx(saved_bytes(made, 4), rel=0.05)


def measured(recipe: Path) -> tuple[int, dict[str, int]]:
    """The peak of a real run in a process of its own, and what its plan had said."""
    output = recipe.parent / "run"
    command = [sys.executable, "-m", "tuner", "sft", "--recipe", str(recipe), "--quiet"]
    subprocess.run([*command, "--output", str(output)], check=True)
    record = json.loads((output / "run.json").read_text("utf-8"))
    return record["peak_memory_bytes"], record["plan"]["memory"]


@pytest.mark.parametrize(
    "name",
    [each if each == "lora" else pytest.param(each, marks=pytest.mark.slow) for each in METHODS],
)
@pytest.mark.parametrize("base", ["llama", pytest.param("smollm2-135m", marks=pytest.mark.slow)])
def test_the_peak_is_foreseen_within_a_tenth(
    base: str, name: str, make_recipe: Callable[..., Path]
) -> None:
    """Tiny and 135M parameters; lora, qlora, full and prefix."""
    sections = {key: dict(value) for key, value in METHODS[name].items()}
    if base != "llama":
        sections.setdefault("model", {})["base"] = base
        sections["export"] = {"formats": []}
    recipe = make_recipe(
        data_rows=LONG,
        train={"batch_size": 4, "micro_batch_size": 4, "epochs": 2, "learning_rate": 1e-5},
        eval={"enabled": False, "samples": 0},
        **sections,
    )
    found, told = measured(recipe)
    assert told["peak"] == pytest.approx(found, rel=0.1), told


def test_the_peak_is_that_of_the_process_itself() -> None:
    """A large parent does not count; Linux hands its peak on to what it starts."""
    child = "from tuner.record import provenance; print(provenance.peak_memory_bytes())"
    parent = f"""
import subprocess, sys
large = b"x" * (600 << 20)
print(subprocess.run([sys.executable, "-c", {child!r}], capture_output=True, text=True).stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=True
    )
    assert 4 << 20 < int(done.stdout) < 300 << 20


@pytest.fixture
def eight_billion(tmp_path: Path, bases: Callable[[str], Path]) -> Path:
    """A base of Llama-3.1-8B's shape: config, tokenizer, and headers of weights that are holes."""
    folder = tmp_path / "8B"
    folder.mkdir()
    tiny = bases("llama")
    for file in tiny.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    sizes |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
    config = json.loads((tiny / "config.json").read_text("utf-8")) | sizes
    config |= {"head_dim": 128, "max_position_embeddings": 131072, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    shapes: dict[str, list[int]] = {
        "model.embed_tokens.weight": [128256, 4096],
        "lm_head.weight": [128256, 4096],
        "model.norm.weight": [4096],
    }
    outputs = {"q": 4096, "k": 1024, "v": 1024, "o": 4096}
    for layer in range(32):
        at = f"model.layers.{layer}"
        for part, size in outputs.items():
            shapes[f"{at}.self_attn.{part}_proj.weight"] = [size, 4096]
        shapes[f"{at}.mlp.gate_proj.weight"] = shapes[f"{at}.mlp.up_proj.weight"] = [14336, 4096]
        shapes[f"{at}.mlp.down_proj.weight"] = [4096, 14336]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}.{norm}.weight"] = [4096]
    header, place = {}, 0
    for name, shape in shapes.items():
        end = place + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    return folder


def gpu(gib: int) -> hardware.Machine:
    card = hardware.Gpu("one", gib * GIB, (9, 0))
    return hardware.Machine(cpu_count=8, memory_bytes=64 * GIB, gpus=(card,))


def test_eight_billion_parameters_on_gpus(
    eight_billion: Path, make_recipe: Callable[..., Path]
) -> None:
    """16 GB of weights: LoRA fits 24 GiB, in 4 bits 16 GiB; training them all fits no GPU."""
    long = [{"instruction": "Say.", "output": "rent " * 1900} for _ in range(8)]
    shared: dict[str, Any] = {"model": {"base": str(eight_billion)}, "data_rows": long}
    # 16 GB of artefacts would need that much free disk.
    shared["export"] = {"formats": []}
    made = make(make_recipe(**shared, method={"name": "lora"}), gpu(80))
    assert made.facts["parameters"]["total"] == 8_030_261_248
    assert made.facts["memory"]["weights"] > 16_060_522_496
    told = made.facts["gpus"]
    assert told["16 GiB"].startswith("model.quantize: nf4")
    assert "nf4" not in told["24 GiB"]
    full = make_recipe(**shared, method={"name": "full"})
    with pytest.raises(ResourceError, match="does not fit into memory") as caught:
        make(full, gpu(80))
    assert caught.value.exit_code == 7
    assert re.search(r"a GPU with at least \d+ GiB in bfloat16", caught.value.fix)


def test_what_does_not_fit_is_told_what_would(
    eight_billion: Path, make_recipe: Callable[..., Path]
) -> None:
    """Exit 7 names keys; with the first of them the plan goes through."""
    long = [{"instruction": "Say.", "output": "rent " * 1900} for _ in range(8)]
    shared: dict[str, Any] = {"data_rows": long, "method": {"name": "lora"}}
    shared["export"] = {"formats": []}
    recipe = make_recipe(model={"base": str(eight_billion)}, **shared)
    with pytest.raises(ResourceError) as caught:
        make(recipe, gpu(16))
    assert caught.value.fix.startswith("model.quantize: nf4 fits: ")
    made = make(
        make_recipe(model={"base": str(eight_billion), "quantize": "nf4"}, **shared), gpu(16)
    )
    assert made.facts["memory"]["total"] <= fit.budget("cuda", 16 * GIB)
    with pytest.raises(ResourceError) as caught:
        make(recipe, gpu(10))
    assert "data.max_length: " in caught.value.fix


def test_rows_are_cut_as_the_run_cuts_them() -> None:
    """The micro-batches of the estimate are those of the Trainer: 5 rows by 2 are 2, 2 and 1."""
    made = estimate.RowLengths([5, 1, 2, 7, 3, 4], [1, 1, 2, 2, 3, 3], batch=5)
    computed, seen, kept, count, squares = (part.tolist() for part in made.cut(2))
    assert (seen, kept) == ([6, 9, 3, 4, 0, 0], [2, 4, 3, 3, 0, 0])
    assert (count, computed) == ([2, 2, 1, 1, 0, 0], seen)
    assert squares[:2] == [26, 53]
    shared = estimate.RowLengths([5, 4], [1, 1], batch=2, shared=2)
    assert shared.cut(2)[0].tolist() == [7]
    padded = estimate.RowLengths([5, 1], [1, 1], batch=2, packed=False)
    assert [part.tolist() for part in padded.cut(2)][:3] == [[10], [10], [2]]


def test_what_autocast_and_masks_take_on_a_gpu() -> None:
    """Trained weights are there once more in half precision; the kernel for packed rows keeps no
    mask, and the others do."""
    kept = activations.KeptActivations(10, 0, 4, 0, 2, 2, 8, virtual=3, masked=True)
    rows = estimate.RowLengths([50] * 4, [20] * 4, batch=4)
    adapter = estimate.Workload(
        1000, 10, True, "bfloat16", "bfloat16", 50, kept, rows, device="cuda"
    )
    full = replace(adapter, adapter=False, trainable=1000)
    assert full.weights == 1000 * 4 + 1000 * 2
    assert replace(full, dtype="float32").weights == 1000 * 4
    assert replace(full, device="cpu").weights == 1000 * 4
    assert adapter.weights == 1000 * 2 + 10 * 4
    # A fresh process proves what it loads to the same GPU, next to the context of this one.
    proving = 2 * estimate.CONTEXT + adapter.weights + 4 * 4 * 50 * 50
    assert estimate.export_peak(adapter, ["adapter"]) == proving
    assert estimate.export_peak(adapter, []) < proving - estimate.CONTEXT // 2
    mask = 2 * (4 * 50**2 + 3 * 4 * 50)
    plain = estimate.estimate(adapter, 4, False).activations
    for other, width in (
        (replace(adapter, dtype="float16"), 2),
        (replace(adapter, dtype="float32"), 4),
    ):
        wider = estimate.estimate(other, 4, False).activations * 2 // width
        assert wider - plain == mask * 2
