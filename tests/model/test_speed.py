"""What makes training fast changes nothing: fused LoRA, shared prefixes, the heap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from tests import oracle
from tests.bench import report
from tests.model.test_packing import PACKED, example, largest, load, loss_and_gradients
from tuner.data.tokens.collate import collate_packed, shared_prefix
from tuner.data.tokens.example import Example
from tuner.machine import hardware
from tuner.model.kernels import fused_lora, fused_mlp, fused_norm
from tuner.plan import decide, make, split
from tuner.plan import values as plan_values
from tuner.plan.devices import Devices
from tuner.plan.memory import estimate
from tuner.recipe import load as recipe_load
from tuner.run import build

ROOT = Path(__file__).resolve().parents[2]
INPUTS, OUTPUTS, RANK = 48, 80, 4


class Layer(torch.nn.Module):
    """A linear layer as peft finds it in a model."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(INPUTS, OUTPUTS, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.proj(x)
        return result


def lora_layer(
    fused: bool, bias: bool = True, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    """One LoRA layer, the same with and without fusion, both factors away from zero."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=RANK, lora_alpha=3 * RANK, target_modules=["proj"], **options)
    if fused:
        fused_lora.register(config)
    model = peft.get_peft_model(Layer(bias), config)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert isinstance(model.base_model.model.proj, fused_lora.FusedLinear) is fused
    return model.to(dtype)


def outcome(model: Any, x: torch.Tensor, autocast: bool = False) -> dict[str, torch.Tensor]:
    """Result, and the gradients of input and factors for a random gradient of the result."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    y.backward(direction)
    learned = {n: p for n, p in model.named_parameters() if p.grad is not None}
    assert all(parameter.grad.dtype == parameter.dtype for parameter in learned.values())
    grads = {name: parameter.grad for name, parameter in learned.items()}
    return {"y": y.detach(), "x": x.grad, **grads}


X = torch.randn(3, 7, INPUTS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_gradients_are_those_of_peft_and_of_plain_torch(bias: bool) -> None:
    ours, theirs = outcome(lora_layer(True, bias), X), outcome(lora_layer(False, bias), X)
    assert len(ours) == 4
    assert largest(ours, theirs) < 1e-5
    model = lora_layer(False, bias)
    proj = model.base_model.model.proj
    a, b = proj.lora_A["default"].weight, proj.lora_B["default"].weight
    plain = oracle.LoraLinear(proj.base_layer, a.detach(), b.detach(), 3.0)
    plain.base.requires_grad_(False)
    x = X.clone().requires_grad_()
    y = plain(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(3)))
    reference = dict(zip(ours, (y.detach(), x.grad, plain.a.grad, plain.b.grad), strict=True))
    assert largest(ours, reference) < 1e-5


def test_an_update_of_zero_is_added_without_a_trace() -> None:
    """At the start, where B is zero, the fused result is the base's, bit for bit."""
    model = lora_layer(True)
    proj = model.base_model.model.proj
    torch.nn.init.zeros_(proj.lora_B["default"].weight)
    assert torch.equal(model(X), proj.base_layer(X))


@pytest.mark.parametrize("autocast", [True, False])
def test_the_fused_layer_is_as_good_as_peft_in_bfloat16(autocast: bool) -> None:
    """Against float32; with float32 factors under autocast, as they are trained, and without."""
    exact = outcome(lora_layer(False), X)

    def error(fused: bool) -> float:
        model = lora_layer(fused, dtype=torch.float32 if autocast else torch.bfloat16)
        model.base_model.model.proj.base_layer.to(torch.bfloat16)
        got = outcome(model, X.bfloat16(), autocast)
        return largest({name: value.float() for name, value in got.items()}, exact)

    assert 1e-4 < error(True) < 1.5 * error(False)


def test_a_frozen_factor_or_input_gets_no_gradient() -> None:
    model = lora_layer(True)
    proj = model.base_model.model.proj
    proj.lora_A["default"].weight.requires_grad_(False)
    model(X).sum().backward()
    assert proj.lora_A["default"].weight.grad is None
    assert proj.lora_B["default"].weight.grad is not None


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}], ids=str
)
def test_what_the_fused_layer_is_not_made_for_is_left_to_peft(options: dict[str, Any]) -> None:
    def drawn(fused: bool) -> dict[str, torch.Tensor]:
        model = lora_layer(fused, **options)
        torch.manual_seed(4)
        return outcome(model, X)

    ours, theirs = drawn(True), drawn(False)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_without_gradients_and_after_merging_the_layer_is_peft_bit_for_bit() -> None:
    ours, theirs = lora_layer(True), lora_layer(False)
    with torch.no_grad():
        assert torch.equal(ours(X), theirs(X))
    with ours.disable_adapter(), theirs.disable_adapter():
        assert torch.equal(ours(X), theirs(X))
    merged = [model.merge_and_unload() for model in (ours, theirs)]
    assert type(merged[0].proj) is torch.nn.Linear
    assert torch.equal(merged[0](X), merged[1](X))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("frozen", [False, True])
def test_an_mlp_that_keeps_less_learns_the_same(
    kind: str, frozen: bool, bases: Callable[..., Path]
) -> None:
    """Loss and gradients of a model whose product of gate and up is made again on the way back."""

    def gradients(fused: bool) -> tuple[float, dict[str, torch.Tensor]]:
        base = load(bases(kind))
        torch.manual_seed(1)
        names = ["down_proj"] if frozen else ["q_proj", "gate_proj", "up_proj", "down_proj"]
        config = peft.LoraConfig(r=RANK, target_modules=names)
        if fused:
            fused_lora.register(config)
        model = peft.get_peft_model(base, config)
        before = set(model.state_dict())
        assert fused_mlp.put(model) == (2 if fused else 0)
        assert set(model.state_dict()) == before
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return loss_and_gradients(model, [collate_packed(OPENED)])

    (ours, fused), (theirs, plain) = gradients(True), gradients(False)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert largest(fused, plain) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_norm_that_keeps_its_input_alone_learns_the_same(
    kind: str, bases: Callable[..., Path]
) -> None:
    """Loss bit for bit, gradients to rounding; a norm that is trained itself is left alone."""

    def gradients(fused: bool) -> tuple[float, dict[str, torch.Tensor]]:
        base = load(bases(kind))
        torch.manual_seed(1)
        for norm in (module for name, module in base.named_modules() if name.endswith("norm")):
            torch.nn.init.normal_(norm.weight, mean=1.0, std=0.3)
        trained = base.model.layers[1].input_layernorm.weight
        for parameter in base.parameters():
            parameter.requires_grad_(parameter is trained or parameter.ndim > 1)
        before, norms = set(base.state_dict()), len([n for n in base.state_dict() if "norm" in n])
        if fused:
            assert fused_norm.put(base) == norms - 1
        assert set(base.state_dict()) == before
        return loss_and_gradients(base, [collate_packed(OPENED)])

    (ours, fused), (theirs, plain) = gradients(True), gradients(False)
    assert ours == theirs
    assert fused.keys() == plain.keys()
    assert largest(fused, plain) < 1e-5


@pytest.mark.parametrize("kind", [LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm])
def test_the_gradient_of_a_norm_in_bfloat16_is_as_near_as_transformers(kind: Any) -> None:
    """To that in float64; the result is transformers', bit for bit, with gradients or without."""
    torch.manual_seed(3)
    norm = kind(64)
    torch.nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    norm.requires_grad_(False)
    x, dy = torch.randn(2, 40, 64, 5).bfloat16().unbind(-1)[:2]
    inputs = x.double()
    inputs.requires_grad_()
    factor = torch.rsqrt(inputs.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    weight = norm.weight.bfloat16()
    (exact,) = torch.autograd.grad(weight.double() * inputs * factor, inputs, dy.double())
    norm.to(torch.bfloat16)
    errors = []
    for module in (fused_norm.FusedNorm(norm), norm):
        leaf = x.clone().requires_grad_()
        result = module(leaf)
        assert torch.equal(result, norm(x))
        (found,) = torch.autograd.grad(result, leaf, dy)
        errors.append(float((found.double() - exact).abs().max()))
    assert errors[0] <= 1.01 * errors[1]
    assert errors[0] < 0.05
    with torch.no_grad():
        assert torch.equal(fused_norm.FusedNorm(norm)(x), norm(x))


@pytest.mark.usefixtures("in_process")
def test_a_run_ends_where_it_ends_without_fusion(
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same losses and weights to rounding, and an adapter folder with the same contents."""
    recipe = make_recipe(method={"name": "lora", "r": 4}, eval={"enabled": False, "samples": 0})
    made = make.make(recipe_load.load(recipe, verb="sft"), hardware.detect(), output=tmp_path / "x")
    live = [type(module) for module in build.start(made, build.load(made)).model.modules()]
    assert (live.count(fused_lora.FusedLinear), live.count(fused_mlp.FusedMlp)) == (14, 2)
    assert live.count(fused_norm.FusedNorm) == 5
    run_recipe(recipe, out="fused")
    monkeypatch.setattr(build, "_fuse", lambda config: None)
    monkeypatch.setattr(fused_norm, "put", lambda model: 0)
    run_recipe(recipe, out="plain")
    folders = [tmp_path / name for name in ("fused", "plain")]
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in folders
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    configs = [(folder / "adapter" / "adapter_config.json").read_bytes() for folder in folders]
    assert configs[0] == configs[1]
    states = [peft.load_peft_weights(str(folder / "adapter"), "cpu") for folder in folders]
    assert largest(states[0], states[1]) < 1e-3


PREFIX = [11, 12, 13, 14, 15, 16]


def opened(length: int, seed: int, prompt: int) -> Example:
    """A row that begins as all do; what follows `prompt` tokens after that is supervised."""
    row = example(length, seed, prompt)
    ids = [*PREFIX, *row.input_ids]
    return Example(row.row, ids, [*[False] * len(PREFIX), *row.supervised])


OPENED = [opened(7, 1, 3), opened(13, 2, 1), opened(4, 3, 2), opened(21, 4, 9)]


@pytest.mark.parametrize("kind", PACKED)
def test_a_shared_prefix_is_as_good_as_one_in_each_row(
    kind: str, bases: Callable[..., Path]
) -> None:
    """M09: loss and gradients, those of embeddings included, equal the oracle's over rows alone."""
    batch = collate_packed(OPENED, share=True)
    saved = sum(len(row.input_ids) for row in OPENED) - batch["input_ids"].shape[1]
    assert batch["shared_prefix"] == len(PREFIX)
    assert saved == (len(OPENED) - 1) * len(PREFIX)
    loss, packed = loss_and_gradients(load(bases(kind)), [batch])
    reference = AutoModelForCausalLM.from_pretrained(
        bases(kind), attn_implementation="eager", dtype=torch.float32
    )
    expected = oracle.step_loss(reference, OPENED)
    expected.backward()
    alone = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert largest(packed, alone) < 1e-5


def test_rows_that_share_a_prefix_do_not_see_each_other(bases: Callable[..., Path]) -> None:
    """M09: changing a row changes none of the others' logits, and not the prefix's, by a single
    bit."""
    model = load(bases("llama")).eval()
    batch = collate_packed(OPENED, share=True)
    for key in ("labels", "logits_to_keep"):
        batch.pop(key)
    start, stop = batch["cu_seq_lens_q"][1:3].tolist()
    with torch.no_grad():
        before = model(**batch, use_cache=False).logits
        batch["input_ids"][0, start:stop] = (batch["input_ids"][0, start:stop] + 3) % 500
        after = model(**batch, use_cache=False).logits
    assert torch.equal(before[:, :start], after[:, :start])
    assert torch.equal(before[:, stop:], after[:, stop:])
    assert not torch.equal(before[:, start:stop], after[:, start:stop])


def test_a_prefix_ends_before_the_first_token_that_teaches() -> None:
    """The last shared token is not one whose next token is a target: that would count once."""
    rows = [Example("a", [1, 2, 3, 4, 5], [False] * 3 + [True] * 2) for _ in range(3)]
    assert shared_prefix(rows) == 2
    whole = Example("b", [1, 2, 3, 9], [True] * 4)
    assert shared_prefix([*rows, whole]) == 0
    assert shared_prefix(rows[:1]) == 0
    assert shared_prefix([Example("c", [1], [True]), *rows]) == 0
    other = Example("d", [1, 7, 3, 4, 5], [False] * 3 + [True] * 2)
    assert shared_prefix([*rows, other]) == 1
    targets = [token for row in [*rows, other] for token in row.input_ids[3:]]
    for share in (True, False):
        assert collate_packed([*rows, other], share)["labels"][0, 1:].tolist() == targets


@pytest.mark.parametrize(
    ("method", "shared"),
    [
        ({"name": "lora"}, True),
        ({"name": "full"}, True),
        ({"name": "lora", "dropout": 0.1}, False),
        ({"name": "prefix"}, False),
    ],
    ids=str,
)
def test_rows_share_where_nothing_is_drawn(
    method: dict[str, Any], shared: bool, make_recipe: Callable[..., Path]
) -> None:
    loaded = recipe_load.load(make_recipe(method=method), verb="sft")
    made = make.make(loaded, hardware.detect(), output=Path("unused"))
    assert made.packing
    batch = made.training_collate(made.prepared.train[:4])
    assert ("shared_prefix" in batch) is shared
    assert "shared_prefix" not in made.collate(made.prepared.train[:4])
    made.base.config["attention_dropout"] = 0.1
    assert not decide.shares(made.recipe, made.method, made.base)


@pytest.mark.parametrize(
    ("batch", "length", "asked", "dtype", "expected"),
    [
        (32, 100, "auto", "float32", 8),
        (32, 100, "auto", "bfloat16", 16),
        (6, 1000, "auto", "float32", 1),
        (4, 12, "auto", "float32", 4),
        (32, 100, 16, "float32", 16),
    ],
)
def test_a_cpu_gets_as_many_rows_as_keep_it_busy(
    batch: int,
    length: int,
    asked: str | int,
    dtype: str,
    expected: int,
    make_recipe: Callable[..., Path],
) -> None:
    """On a CPU the fewest rows with enough tokens, twice as many where they take half of the
    memory; what the user says stays."""
    train = {"batch_size": batch, "micro_batch_size": asked}
    loaded = recipe_load.load(make_recipe(train=train), verb="sft")
    made = make.make(loaded, hardware.detect(), output=Path("unused"))
    rows_of = estimate.RowLengths([length] * 64, [length // 2] * 64, batch)
    for device, rows in (("cpu", expected), ("cuda", batch if asked == "auto" else asked)):
        gpu = hardware.Gpu("one", 2**36, (9, 0))
        host = hardware.Machine(cpu_count=2, memory_bytes=2**36, gpus=(gpu,))
        values = plan_values.Values(loaded)
        shape = replace(made.shape, rows=rows_of, device=device, dtype=dtype)
        base: Any = SimpleNamespace(recipe=made.recipe, method=made.method)
        decided: Any = SimpleNamespace(device=device, packing=True, processes=Devices())
        size, _ = split.split(base, decided, shape, None, host, values)
        assert size == values.now("train.micro_batch_size") == rows


_HEAP = """
import resource, numpy
from tuner.machine import heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        numpy.ones(6_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

first = faults()
said = heap.keep_freed()
faults()
second, kept = faults(), resident()
heap.give_back()
print(first, second, kept - resident(), said)
"""


def test_freed_memory_is_used_again_until_it_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HEAP], capture_output=True, text=True, cwd=ROOT, check=True
    )
    first, second, returned, said = done.stdout.strip().split(" ", 3)
    if "stays in the process" not in said:
        pytest.skip(said)
    # 20 arrays of 48 MB, in pages of 4 KiB or larger.
    assert int(second) < int(first) / 20
    assert int(returned) * os.sysconf("SC_PAGE_SIZE") > 40e6


@pytest.mark.slow
def test_the_bench_compares_equal_work(bases: Callable[..., Path], tmp_path: Path) -> None:
    """All contenders at the same losses on a tiny model; figures for each."""
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--base", str(bases("llama"))]
    command += ["--batch-size", "4", "--rank", "4", "--only", "tuner", "plain", "trl-packed"]
    done = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text("utf-8"))
    assert list(result["contenders"]) == ["tuner", "plain", "trl-packed"]
    assert result["limit_flops"] > 1e9
    for figures in result["contenders"].values():
        assert figures["tokens_per_second"] > 0
        assert 0 < figures["ready_seconds"] <= figures["first_step_seconds"]
        assert 2**27 < figures["peak_memory_bytes"] < 2**32
    assert {run["name"] for run in result["runs"]} == set(result["contenders"])
    assert all(len(run["losses"]) > 1 for run in result["runs"])
    assert result["problems"] == []


def test_the_bench_refuses_other_losses() -> None:
    runs = [{"name": "tuner", "losses": [3.0, 2.9]}, {"name": "plain", "losses": [3.0, 2.91]}]
    assert len(report.problems(runs)) == 1
    assert "plain has loss 2.91" in report.problems(runs)[0]
    runs[1]["losses"] = [3.0, float("nan")]
    assert report.problems(runs)
    runs[1] |= {"name": "trl", "losses": [3.01, 2.92]}
    assert report.problems(runs) == []
