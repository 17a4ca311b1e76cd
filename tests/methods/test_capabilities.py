"""METHODS, cell by cell: what the table claims works, what it denies is refused by the plan.

M09, M10, M13, N07, E08, E10, H09: every method on every family of bases, as a run from the recipe
to artefacts that are loaded again; packed rows and recomputed activations against rows run alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict

from tests.conftest import rows
from tuner.data.tokens.collate import Collator
from tuner.data.tokens.example import IGNORED
from tuner.errors import ModelError, RecipeError
from tuner.export.proof import fresh_process, prompts, reload
from tuner.export.proof import tensors as proof
from tuner.machine import hardware
from tuner.methods import METHODS
from tuner.plan import make as plan_make
from tuner.plan import plan
from tuner.recipe import load as recipe_load
from tuner.run import build
from tuner.tasks.sft import token_loss

LABELS = ["good", "bad", "fine"]
# Options of the methods that need some, or that are too large for a tiny base.
OPTIONS: dict[str, dict[str, Any]] = {
    "trainable_tokens": {"tokens": ["."]},
    "vera": {"r": 8},
    "fourierft": {"coefficients": 50},
    "oft": {"block_size": 8},
    "lora": {"r": 4},
    "rslora": {"r": 4},
    "dora": {"r": 4},
    **{
        name: {"num_virtual_tokens": 5}
        for name in ("prefix", "ptuning_v2", "ptuning", "prompt", "multitask_prompt")
    },
}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {"kind": "llama"},
    "llama padded": {"kind": "llama-tied", "data": {"packing": False}},
    "llama recomputed": {"kind": "llama", "train": {"gradient_checkpointing": True}},
    "llama nf4": {"kind": "llama", "model": {"quantize": "nf4"}},
    "llama int8": {"kind": "llama", "model": {"quantize": "int8"}},
    "llama classes": {"kind": "llama", "classes": True},
    "gpt2": {"kind": "gpt2"},
    "mixtral": {"kind": "mixtral"},
    "t5": {"kind": "t5"},
    "bert": {"kind": "bert", "classes": True},
}
# Further families, on one method of each kind.
FURTHER = {
    name: {"kind": name, "classes": name == "roberta"}
    for name in ("qwen2", "gemma", "opt", "bart", "roberta")
}
SAMPLES = ("lora", "prefix", "prompt", "bottleneck", "full")


def possible(name: str, setting: Mapping[str, Any]) -> bool:
    """What the table says of a method in a setting."""
    row, kind = METHODS[name], str(setting["kind"])
    family = {"t5": "encoder-decoder", "bart": "encoder-decoder", "bert": "encoder"}
    family["roberta"] = "encoder"
    quantize = setting.get("model", {}).get("quantize")
    model_type = "llama" if kind.startswith("llama") else kind
    return (
        family.get(kind, "decoder") in row.families
        and (not row.model_types or model_type in row.model_types)
        and (quantize is None or quantize in row.quantized)
        and (row.classes or not setting.get("classes"))
        and (row.conv1d or kind != "gpt2")
        and (row.gradient_checkpointing or not setting.get("train"))
    )


CELLS = [(name, key, SETTINGS[key]) for name in METHODS for key in SETTINGS]
CELLS += [(name, key, FURTHER[key]) for name in SAMPLES for key in FURTHER]
CLAIMED = [(name, key) for name, key, setting in CELLS if possible(name, setting)]
DENIED = [(name, key) for name, key, setting in CELLS if not possible(name, setting)]


def class_rows(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"instruction": f"Say number {n} of {LABELS[n % 3]} music.", "output": LABELS[n % 3]}
        for n in range(start, start + count)
    ]


@pytest.fixture
def cell(make_recipe: Callable[..., Path]) -> Callable[..., Path]:
    """Write the recipe of a method in a setting."""

    def make(name: str, key: str, **sections: Any) -> Path:
        setting = {**SETTINGS, **FURTHER}[key]
        given = {part: dict(setting.get(part, {})) for part in ("model", "data", "train")}
        if setting.get("classes"):
            given["model"]["task"] = "classification"
            given["data"] |= {"labels": LABELS, "eval": 0.25}
            sections.setdefault("data_rows", class_rows(16))
        method = {"name": name, **OPTIONS.get(name, {})}
        if name == "staged":
            given["train"]["learning_rate"] = "auto"
        sections.setdefault("eval", {"max_new_tokens": 4})
        return make_recipe(setting["kind"], method=method, **given, **sections)

    return make


def make(recipe: Path) -> plan.Plan:
    loaded = recipe_load.load(recipe, verb="sft")
    return plan_make.make(loaded, hardware.detect(), output=recipe.parent / "run")


def load_again(
    made: plan.Plan,
    folders: Mapping[str, Path],
    probes: Sequence[fresh_process.Probe],
    proofs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """As the fresh process does it, without the seconds that starting one takes."""
    found = {}
    torch.manual_seed(99)
    job = fresh_process.job_of(made, probes, folders, proofs)
    for name, folder in folders.items():
        found[name] = (
            fresh_process.logits(reload.load(job, name, str(folder)), probes),
            proof.prove(job, proofs[name]) if name in proofs else None,
            prompts.compared(job, name, folder)["different"],
        )
    return found


# Encoder-decoders train as decoders do: one method of each family with the quick tests is enough.
QUICK_T5 = ("lora", "prefix")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param(
            *cell, marks=[pytest.mark.slow] * (cell[1] == "t5" and cell[0] not in QUICK_T5)
        )
        for cell in CLAIMED
    ],
)
def test_a_claimed_cell_trains_saves_and_loads(
    name: str,
    key: str,
    cell: Callable[..., Path],
    run_recipe: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E08, E10: from the recipe to artefacts equal to the live model; every tensor moved."""
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)
    found = run_recipe(cell(name, key))
    assert found["status"] == "done"
    assert found["unmoved_tensors"] == []
    assert found["scores"]["before"]["loss"] != found["scores"]["after"]["loss"]
    kinds = {item["kind"] for item in found["artefacts"]}
    assert ("adapter" in kinds) == METHODS[name].adapter
    plain = "int8" not in key and "nf4" not in key
    merges = METHODS[name].mergeable and plain
    if "classes" in key or key in ("bert", "roberta"):
        merges = merges and METHODS[name].merges_classes
    assert ("merged" in kinds) == merges
    writes = "classes" not in key and key not in ("t5", "bart", "bert", "roberta")
    assert ("virtual_tokens" in kinds) == (METHODS[name].virtual_tokens and writes)
    # The plan's count, made without weights, is what was trained.
    planned = found["plan"]["parameters"]["trainable"]
    assert planned > 0


@pytest.mark.parametrize(("name", "key"), DENIED)
def test_a_denied_cell_is_refused_by_the_plan(
    name: str, key: str, cell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """H09: by name, before a weight is touched."""
    monkeypatch.setattr(build, "load", lambda *_: pytest.fail("a model was loaded"))
    recipe = cell(name, key)
    with pytest.raises((RecipeError, ModelError)) as caught:
        make(recipe)
    assert name in str(caught.value)
    assert caught.value.fix


ADAPTERS = [name for name, row in METHODS.items() if row.adapter]


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].mergeable])
def test_a_method_that_cannot_merge_says_so(name: str, cell: Callable[..., Path]) -> None:
    """E08"""
    with pytest.raises(RecipeError, match="cannot be merged") as caught:
        make(cell(name, "llama", export={"formats": ["merged"]}))
    assert caught.value.exit_code == 2


def trained(cell: Callable[..., Path], name: str, key: str = "llama") -> tuple[plan.Plan, Any]:
    """A live model whose new tensors are all away from their start."""
    made = make(cell(name, key, data_rows=rows(6)))
    network = build.start(made, build.load(made)).model
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if name != "staged":
        assert count == made.facts["parameters"]["trainable"]
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor_name, parameter in network.named_parameters():
            if parameter.requires_grad and "prompt_encoder" not in tensor_name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return made, network


def gradients(
    network: Any, collate: Collator, batches: Sequence[Sequence[Any]]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss per target and gradients of all batches together."""
    network.zero_grad()
    count = sum(row.num_targets for batch in batches for row in batch)
    total = 0.0
    for batch in batches:
        tensors = collate(batch)
        labels = tensors.pop("labels")
        loss = token_loss(network(**tensors), labels, count)
        loss.backward()
        total += float(loss)
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    return total, {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}


def assert_close(first: Any, second: Any, limit: float) -> None:
    assert first[0] == pytest.approx(second[0], rel=limit)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        largest = max(float(second[1][name].abs().max()), 1e-8)
        assert float((gradient - second[1][name]).abs().max()) <= limit * largest, name


PACKED = [name for name in METHODS if METHODS[name].packing]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_equal_rows_alone(name: str, kind: str, cell: Callable[..., Path]) -> None:
    """M09, M10: loss and gradients against peft's own way, row by row; a changed row changes no
    other."""
    if not possible(name, SETTINGS[kind]):
        pytest.skip("not claimed on this base")
    made, network = trained(cell, name, kind)
    network.train()
    examples = made.prepared.train
    alone = Collator(False, "language", made.tokenizer.pad_token_id, tasks=made.collate.tasks)
    packed = gradients(network, made.collate, [examples])
    assert_close(packed, gradients(network, alone, [[row] for row in examples]), 1e-5)
    network.eval()
    batch = made.collate(examples)
    del batch["labels"]
    first, size = batch["input_ids"], len(examples[0].input_ids)
    changed = first.clone()
    changed[0, 1 : size - 1] = (changed[0, 1 : size - 1] + 7) % 400
    batch["logits_to_keep"] = torch.arange(size, first.shape[1])
    with torch.no_grad():
        before = network(**batch).logits
        after = network(**{**batch, "input_ids": changed}).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", ADAPTERS)
def test_recomputed_activations_give_the_same_gradients(
    name: str, cell: Callable[..., Path]
) -> None:
    """N07, and prefixes, which peft refuses to recompute."""
    made, network = trained(cell, name)
    network.train()
    plain = gradients(network, made.collate, [made.prepared.train])
    network.enable_input_require_grads()
    network.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    assert_close(gradients(network, made.collate, [made.prepared.train]), plain, 1e-6)


@pytest.mark.parametrize("name", ADAPTERS)
def test_accumulation_does_not_change_the_update(
    name: str,
    cell: Callable[..., Path],
    run_recipe: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N01: one, two and four micro-batches a step: the same losses and gradient norms over four
    steps, AdaLoRA's penalty included."""
    # What the run does before and after its steps.
    without = {"eval": {"enabled": False, "samples": 0}, "export": {"formats": []}}
    logged = []
    for micro in (4, 2, 1):
        # A rate at which rounding does not grow into a difference that one could see.
        train = {"micro_batch_size": micro, "learning_rate": 1e-4}
        setting = {**SETTINGS["llama"], "train": train}
        monkeypatch.setitem(SETTINGS, "llama", setting)
        recipe = cell(name, "llama", data_rows=rows(14), **without)
        run_recipe(recipe, f"run-{micro}")
        lines = (tmp_path / f"run-{micro}" / "metrics.jsonl").read_text().splitlines()
        logged.append([json.loads(line) for line in lines])
    for other in logged[1:]:
        for first, second in zip(logged[0], other, strict=True):
            assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
            assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)


DEEP = ("prefix", "ptuning_v2", "ptuning", "prompt")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("name", DEEP)
def test_virtual_tokens_do_not_see_padding(name: str, kind: str, cell: Callable[..., Path]) -> None:
    """M13: greedy answers alone, together, and token by token from plain forward passes."""
    _, network = trained(cell, name, kind)
    network.eval()
    prompts = [[9, 30, 41], [50, 61, 72, 83, 94, 105, 116], [300]]
    alone = [generate(network, [prompt]) for prompt in prompts]
    assert [generate(network, prompts)[n] for n in range(3)] == [each[0] for each in alone]
    for prompt, answer in zip(prompts, alone, strict=True):
        ids = list(prompt)
        for _ in range(6):
            logits = network(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
        assert ids[len(prompt) :] == answer[0]


@torch.no_grad()
def generate(network: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, prompt in enumerate(prompts):
        ids[number, longest - len(prompt) :] = torch.tensor(prompt)
        mask[number, longest - len(prompt) :] = 1
    found = network.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False
    )
    return [row[longest:].tolist() for row in found]


FRESH = """
import json, sys, torch
from tuner.export.proof import fresh_process, prompts, reload
from safetensors.torch import save_file
torch.set_num_threads(1)
jobs = json.load(open(sys.argv[1]))
result = {}
for name, job in jobs.items():
    model = reload.load(job, "adapter", job["folder"])
    for number, tensor in enumerate(fresh_process.logits(model, job["rows"])):
        result[f"{name}.{number}"] = tensor.contiguous()
save_file(result, sys.argv[2])
"""


@pytest.mark.slow
def test_every_adapter_survives_a_fresh_process(cell: Callable[..., Path], tmp_path: Path) -> None:
    """N09, E10: written by one process and loaded by another, the logits are the same."""
    from safetensors.torch import load_file

    jobs, live = {}, {}
    for name in ADAPTERS:
        made, network = trained(cell, name)
        network.eval()
        probes = fresh_process.probe_rows(made)
        live[name] = fresh_process.logits(network, probes)
        folder = tmp_path / "adapters" / name
        network.save_pretrained(folder, save_embedding_layers=False)
        kept = get_peft_model_state_dict(network)
        assert kept
        job = fresh_process.job_of(made, probes, {"adapter": folder}, {})
        jobs[name] = {**job, "folder": str(folder)}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    result = tmp_path / "logits.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "jobs.json"), str(result)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    fresh = load_file(result)
    for name, tensors in live.items():
        for number, tensor in enumerate(tensors):
            difference = float((fresh[f"{name}.{number}"] - tensor).abs().max())
            # These two compute in another order than they did when they were trained.
            limit = 1e-6 if name in ("adalora", "adaption_prompt") else 0.0
            assert difference <= limit, name


def test_labels_are_ignored_where_there_is_no_target() -> None:
    """A class label stands behind one ignored column, as every other target does."""
    row = type("Row", (), {"input_ids": [1, 2], "label": 2, "goals": (), "task": 0})
    batch = Collator(head="classes")([row])  # type: ignore[list-item]
    assert batch["labels"].tolist() == [[IGNORED, 2]]
