"""What a LoRA can be told besides its rank: N13, E01, H01, H07, H09.

Some layers only, ranks of their own, a faster B, experts, modules trained whole; and what is
refused. Saved files are read with safetensors, forward passes compared with plain matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import oracle
from tests.methods.test_capabilities import load_again
from tests.methods.test_methods import built, logits, make, randomise
from tuner.errors import ModelError, RecipeError
from tuner.export.proof import fresh_process
from tuner.tasks.optimizer import optimizer_and_schedule

Make = Callable[..., Path]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artefacts are loaded again without the seconds that a fresh process takes."""
    monkeypatch.setattr(fresh_process, "fresh_logits", load_again)


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter file, by their names in the base."""
    tensors: dict[str, torch.Tensor] = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): value for name, value in tensors.items()}


def assert_reloads(record: Mapping[str, Any], run: Path, base: Path) -> None:
    """Adapter and merged model, loaded by peft and transformers, are one model and no base."""
    assert [item["kind"] for item in record["artefacts"]] == ["adapter", "merged"]
    assert all(item["verified"] for item in record["artefacts"])
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    untouched = logits(plain)
    adapted = logits(PeftModel.from_pretrained(plain, run / "adapter"))
    merged = logits(AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32))
    assert (adapted - merged).abs().max() < 1e-4
    assert (adapted - untouched).abs().max() > 1e-2


@pytest.mark.parametrize(("kind", "block"), [("llama", "model.layers.1."), ("gpt2", ".h.1.")])
@pytest.mark.usefixtures("in_process")
def test_layers_alone_have_adapters(
    kind: str, block: str, make_recipe: Make, run_recipe: Run, bases: Any, tmp_path: Path
) -> None:
    """The first layer stays as it is, in the adapter file and in what is counted."""
    record = run_recipe(make_recipe(kind, method={"layers": 1, "r": 4}))
    tensors = saved(tmp_path / "run/adapter")
    assert tensors
    assert all(block in name for name in tensors)
    assert record["plan"]["adapted"]["in_layers"] == 1
    assert record["plan"]["parameters"]["trainable"] == sum(t.numel() for t in tensors.values())
    assert_reloads(record, tmp_path / "run", bases(kind))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["lora", "rslora"])
def test_every_module_is_scaled_by_its_own_rank(
    name: str, kind: str, make_recipe: Make, bases: Any
) -> None:
    """N13: the longest ending that fits counts; forward and merged weights equal plain matrices."""
    first, second = ("layers.0.self_attn.q_proj", "q_proj")
    if kind == "gpt2":
        first, second = ("h.0.attn.c_attn", "c_attn")
    pattern = {second: 2, first: 4}
    method = {"name": name, "r": 16, "alpha": 32, "rank_pattern": pattern}
    made = make(make_recipe(kind, method=method))
    network = built(made).model
    randomise(network)
    # In float64: float32's own rounding of the reference would count against the network.
    reference = AutoModelForCausalLM.from_pretrained(bases(kind), dtype=torch.float32).double()
    ranks = {}
    for path, layer in network.get_base_model().named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        a, b = (part["default"].weight.data.double() for part in (layer.lora_A, layer.lora_B))
        rank = ranks[path] = len(a)
        scale = 32 / (math.sqrt(rank) if name == "rslora" else rank)
        assert layer.scaling["default"] == pytest.approx(scale)
        plain = reference.get_submodule(path)
        oracle.set_weight(plain, oracle.matrix(plain) + scale * b @ a)
    own = {path: rank for path, rank in ranks.items() if rank != 16}
    assert sorted(own.values()) == [2, 4]
    assert all(path.endswith(first if rank == 4 else second) for path, rank in own.items())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert made.facts["parameters"]["trainable"] == trained
    wanted = logits(reference)
    size = wanted.abs().max()
    assert (logits(network) - wanted).abs().max() / size < 1e-5
    assert (logits(network.merge_and_unload()) - wanted).abs().max() / size < 1e-5


@pytest.mark.usefixtures("in_process")
def test_ranks_of_their_own_survive_the_export(
    make_recipe: Make, run_recipe: Run, bases: Any, tmp_path: Path
) -> None:
    """N13"""
    method = {"name": "rslora", "r": 16, "alpha": 32, "rank_pattern": {"v_proj": 4}}
    record = run_recipe(make_recipe("llama", method=method))
    tensors = saved(tmp_path / "run/adapter")
    ranks = {name: len(value) for name, value in tensors.items() if "lora_A" in name}
    assert {rank for name, rank in ranks.items() if "v_proj" in name} == {4}
    assert {rank for name, rank in ranks.items() if "v_proj" not in name} == {16}
    assert_reloads(record, tmp_path / "run", bases("llama"))


def step_sizes(network: Any, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """How far one step with all gradients at 1 moves each trained tensor: AdamW moves by its rate.

    Beyond the rate there is only epsilon, and no weight decay.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    before = {name: p.detach().double() for name, p in trained.items()}
    for parameter in trained.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        name: float((before[name] - p.detach().double()).abs().mean())
        for name, p in trained.items()
    }


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_b_learns_faster_by_the_ratio(name: str, make_recipe: Make) -> None:
    """LoRA+: B moves 16 times as far as A; magnitudes and whole modules move as A does."""
    method = {"name": name, "r": 4, "b_rate_ratio": 16, "modules_to_save": ["lm_head"]}
    made = make(make_recipe("llama", method=method, train={"warmup": 0, "scheduler": "constant"}))
    assert made.values["method.b_rate_ratio"].value == 16
    assert made.values["method.b_rate_ratio"].origin.startswith("recipe line")
    network = built(made).model
    parameters = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    optimizer, _ = optimizer_and_schedule(network, parameters, made, made.stages[0])
    moved = step_sizes(network, optimizer)
    for tensor, distance in moved.items():
        rate = 0.01 * (16 if "lora_B" in tensor else 1)
        assert distance == pytest.approx(rate, rel=1e-4), tensor
    assert sum("lora_B" in tensor for tensor in moved) == 14
    assert any("modules_to_save" in tensor for tensor in moved)


@pytest.mark.usefixtures("in_process")
def test_the_ratio_holds_in_a_run(make_recipe: Make, run_recipe: Run, tmp_path: Path) -> None:
    """B starts at zero: after the first step, its largest entry is its rate."""
    train = {"max_steps": 1, "warmup": 0}
    largest = []
    for number, ratio in enumerate((1, 8)):
        method = {"r": 4, "b_rate_ratio": ratio}
        run_recipe(make_recipe("llama", method=method, train=train), out=f"run{number}")
        tensors = saved(tmp_path / f"run{number}/adapter")
        largest.append(max(float(t.abs().max()) for n, t in tensors.items() if "lora_B" in n))
    assert largest == pytest.approx([0.01, 0.08], rel=1e-3)


@pytest.mark.parametrize(
    ("modules", "full_names"),
    [
        (["lm_head"], {"lm_head"}),
        (["lm_head", "embed_tokens"], {"lm_head", "model.embed_tokens"}),
        # No more than what the name means: peft alone would take every name that ends in `norm`.
        ("norm", {"model.norm"}),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_modules_are_trained_saved_and_loaded_whole(
    modules: Any,
    full_names: set[str],
    make_recipe: Make,
    run_recipe: Run,
    bases: Any,
    tmp_path: Path,
) -> None:
    record = run_recipe(make_recipe("llama", method={"r": 4, "modules_to_save": modules}))
    tensors = saved(tmp_path / "run/adapter")
    whole = {name: value for name, value in tensors.items() if ".lora_" not in name}
    assert set(whole) == {f"{name}.weight" for name in full_names}
    base = load_file(bases("llama") / "model.safetensors")
    merged = load_file(tmp_path / "run/merged/model.safetensors")
    for name, value in whole.items():
        assert not torch.equal(value, base[name])
        assert torch.equal(value, merged[name])
    assert record["unmoved_tensors"] == []
    count = sum(value.numel() for value in tensors.values())
    assert record["plan"]["parameters"]["trainable"] == count
    assert_reloads(record, tmp_path / "run", bases("llama"))


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("llama-tied", "lm_head"),
        ("llama-tied", "embed_tokens"),
        ("llama-tied", "model.embed_tokens"),
        ("gpt2", "wte"),
        ("gpt2", "transformer.wte"),
    ],
)
def test_tied_matrices_cannot_be_trained_whole(kind: str, module: str, make_recipe: Make) -> None:
    """E01"""
    with pytest.raises(RecipeError, match="head and embeddings are tied") as caught:
        make(make_recipe(kind, method={"modules_to_save": [module]}))
    assert caught.value.exit_code == 2
    assert module in caught.value.what
    assert "tie_word_embeddings" in caught.value.why


def expert_reference(plain: Any, tensors: Mapping[str, torch.Tensor], scale: float, r: int) -> None:
    """Add scale * B A to every expert of a plain mixtral, from the tensors of a saved adapter.

    A (experts x r, inputs) holds the experts one after the other; B (outputs, r x experts) has the
    experts as its fastest index. The innermost wrapper, `base_layer`, is of gate_up_proj.
    """
    for number, layer in enumerate(plain.model.layers):
        prefix = f"model.layers.{number}.mlp.experts"
        for weight, wrapper in (("gate_up_proj", f"{prefix}.base_layer"), ("down_proj", prefix)):
            a, b = tensors[f"{wrapper}.lora_A.weight"], tensors[f"{wrapper}.lora_B.weight"]
            stack = getattr(layer.mlp.experts, weight).data
            count = len(stack)
            assert (a.shape[0], b.shape[1]) == (count * r, r * count)
            for expert in range(count):
                rows = a[expert * r : (expert + 1) * r]
                stack[expert] += scale * b[:, expert::count] @ rows


@pytest.mark.usefixtures("in_process")
def test_experts_get_adapters(
    make_recipe: Make, run_recipe: Run, bases: Any, tmp_path: Path
) -> None:
    """H07: every expert's two matrices are trained; reloaded and merged they equal plain ones."""
    method = {"r": 4, "alpha": 8, "experts": True}
    record = run_recipe(make_recipe("mixtral", method=method))
    assert record["plan"]["warnings"] == []
    tensors = saved(tmp_path / "run/adapter")
    experts = {name for name in tensors if ".experts." in name}
    assert len(experts) == 8
    assert record["unmoved_tensors"] == []
    count = sum(value.numel() for value in tensors.values())
    assert record["plan"]["parameters"]["trainable"] == count
    assert record["plan"]["adapted"]["modules"] == 8 + 4
    assert_reloads(record, tmp_path / "run", bases("mixtral"))
    plain = AutoModelForCausalLM.from_pretrained(bases("mixtral"), dtype=torch.float32)
    expert_reference(plain, tensors, 8 / 4, 4)
    for name in [name for name in tensors if "self_attn" in name and "lora_A" in name]:
        layer = plain.get_submodule(name.removesuffix(".lora_A.weight"))
        b = tensors[name.replace("lora_A", "lora_B")]
        oracle.set_weight(layer, oracle.matrix(layer) + 8 / 4 * b @ tensors[name])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run/merged", dtype=torch.float32)
    assert (logits(merged) - logits(plain)).abs().max() < 1e-4


def test_experts_keep_to_the_layers_and_ranks_that_are_named(make_recipe: Make) -> None:
    method = {"r": 4, "experts": True, "layers": [1], "rank_pattern": {"down_proj": 2}}
    made = make(make_recipe("mixtral", method=method))
    shapes = {
        name.removeprefix("base_model.model."): tuple(parameter.shape)
        for name, parameter in built(made).model.named_parameters()
        if parameter.requires_grad
    }
    assert all(name.startswith("model.layers.1.") for name in shapes)
    prefix = "model.layers.1.mlp.experts"
    assert shapes[f"{prefix}.base_layer.lora_A.default.weight"] == (4 * 4, 64)
    assert shapes[f"{prefix}.lora_A.default.weight"] == (4 * 2, 96)
    count = sum(math.prod(shape) for shape in shapes.values())
    assert made.facts["parameters"]["trainable"] == count


def test_without_the_key_the_plan_says_that_experts_stay(make_recipe: Make) -> None:
    made = make(make_recipe("mixtral", method={"r": 4}))
    (said,) = made.warnings
    assert "expert weights are not adapted" in said
    assert "method.experts: true" in said
    assert not any(
        "experts" in name for name, _ in built(made).model.named_parameters() if "lora" in name
    )


ABSENT: list[tuple[str, dict[str, Any], str, str]] = [
    ("llama", {"target_modules": ["q_porj", "v_proj"]}, "q_porj", "similar: q_porj -> q_proj"),
    ("llama", {"target_modules": ["up_project"]}, "up_project", "similar: up_project -> up_proj"),
    ("llama", {"rank_pattern": {"q_prjo": 2}}, "q_prjo", "similar: q_prjo -> q_proj"),
    ("llama", {"target_modules": ["q_proj"], "rank_pattern": {"k_proj": 2}}, "k_proj", "q_proj"),
    ("llama", {"modules_to_save": ["lm_haed"]}, "lm_haed", "similar: lm_haed -> lm_head"),
    ("llama", {"modules_to_save": ["head"]}, "head", "lm_head"),
    ("llama", {"layers": [0, 7]}, "no layer 7", "method.layers"),
    ("llama", {"layers": [2]}, "the last one is number 1", "method.layers"),
    ("llama", {"experts": True}, "llama", "leave out method.experts"),
]


@pytest.mark.parametrize(("kind", "method", "why", "fix"), ABSENT, ids=str)
def test_names_that_the_base_does_not_have_are_refused(
    kind: str, method: dict[str, Any], why: str, fix: str, make_recipe: Make
) -> None:
    """H07: a word that would change nothing is refused, with the nearest that would."""
    with pytest.raises(ModelError) as caught:
        make(make_recipe(kind, method=method))
    assert caught.value.exit_code == 4
    assert f"method.{next(reversed(method))}" in caught.value.what
    assert why in caught.value.why
    assert fix in caught.value.fix


@pytest.mark.parametrize("module", ["q_proj", "model.layers.0.mlp", "self_attn", "model"])
def test_a_module_is_adapted_or_trained_whole(module: str, make_recipe: Make) -> None:
    with pytest.raises(RecipeError, match="both trained in full and adapted") as caught:
        make(make_recipe("llama", method={"modules_to_save": [module]}))
    assert caught.value.exit_code == 2
    assert "method.target_modules selects model.layers.0." in caught.value.why


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "prompt", "r": 8}, "method.r: not an option of prompt; lora, "),
        ({"name": "lora", "num_virtual_tokens": 8}, "not an option of lora; prefix, "),
        ({"name": "lora", "num_layers": 1}, "the nearest option of lora is 'layers'"),
        ({"name": "ptuning", "layers": 1}, "the nearest option of ptuning is 'num_layers'"),
        ({"name": "oft", "factors": 2}, "not an option of oft; boft has it"),
    ],
)
def test_options_of_another_method_are_refused(
    method: dict[str, Any], said: str, make_recipe: Make
) -> None:
    """H01"""
    with pytest.raises(RecipeError) as caught:
        make(make_recipe("llama", method=method))
    assert caught.value.exit_code == 2
    (line,) = caught.value.problems
    assert said in line


@pytest.mark.parametrize("name", ["prefix", "ptuning_v2", "ptuning", "prompt", "multitask_prompt"])
def test_virtual_tokens_leave_half_of_the_context(name: str, make_recipe: Make) -> None:
    """H09: 512 tokens: 256 are the most; a plan with them leaves the other half to the rows."""
    with pytest.raises(RecipeError, match="more than half of the model's context") as caught:
        make(make_recipe("llama", method={"name": name, "num_virtual_tokens": 257}))
    assert caught.value.exit_code == 2
    assert "method.num_virtual_tokens: 256 or less" in caught.value.fix
    method = {"name": name, "num_virtual_tokens": 256}
    made = make(make_recipe("llama", method=method, data={"max_length": "context"}))
    assert made.max_length == 512 - 256
    assert made.values["data.max_length"].origin.startswith("context: ")


@pytest.mark.parametrize(
    ("name", "quantize", "proven"),
    [("dora", "int8", "nf4"), ("lokr", "nf4", "int8"), ("loha", "nf4", "int8")],
)
def test_an_unproven_quantized_base_is_refused(
    name: str, quantize: str, proven: str, make_recipe: Make
) -> None:
    """H09"""
    with pytest.raises(RecipeError) as caught:
        make(make_recipe("llama", model={"quantize": quantize}, method={"name": name}))
    assert caught.value.exit_code == 2
    (line,) = caught.value.problems
    assert line.startswith(f"model.quantize: {quantize} and method.name: {name}")
    assert line.endswith(f"(supported: {proven})")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"dropout": 0.1}, "method.dropout"),
        ({"init": "olora"}, "method.init"),
        ({"name": "dora"}, "method.name: dora"),
    ],
)
def test_experts_go_without_what_peft_cannot_do_for_them(
    method: dict[str, Any], said: str, make_recipe: Make
) -> None:
    """H09"""
    with pytest.raises(RecipeError) as caught:
        make(make_recipe("mixtral", method={"experts": True, **method}))
    assert caught.value.exit_code == 2
    assert f"method.experts: true and {said}" in str(caught.value)
