"""Quantization-aware training: the grid, the gradients, the scores, the gain, the refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

pytest.importorskip("torchao")

from peft import LoraConfig, PeftModel, get_peft_model
from torchao.quantization import quantize_
from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig

from tests.conftest import rows, write_rows
from tuner import evaluate
from tuner.errors import RecipeError
from tuner.machine import hardware, packages
from tuner.methods import qat, qat_layers
from tuner.plan import make, plan
from tuner.plan import qat as plan_qat
from tuner.recipe import load as recipe_load

pytestmark = pytest.mark.usefixtures("in_process")

KINDS = [("int8", None), ("int4", 32), ("int4", 64)]
FORMATS = {"formats": ["adapter", "merged"]}


def layer(kind: str, group: int | None, dtype: torch.dtype) -> tuple[Any, qat_layers.QuantizedLora]:
    """A LoRA layer of 64 inputs and 48 outputs whose factors are both at work."""
    torch.manual_seed(3)
    base = torch.nn.Sequential(torch.nn.Linear(64, 48)).to(dtype)
    base._keep_in_fp32_modules = None
    with torch.no_grad():
        base[0].weight[0] = 0
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    qat_layers.register(config)
    model = get_peft_model(base, config)
    qat_layers.start(model, ["0"], kind, group)
    built = model.get_base_model()[0]
    assert isinstance(built, qat_layers.QuantizedLora)
    return model, built


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_the_grid_of_training_is_that_of_the_export(
    kind: str, group: int | None, dtype: torch.dtype
) -> None:
    """What a layer computes with is, to the bit, what the exported weights are dequantized to."""
    model, built = layer(kind, group, dtype)
    with torch.no_grad():
        trained = (built(torch.eye(64, dtype=dtype)) - built.base_layer.bias).T
        used = built.rounding(
            lambda: built.base_layer.weight + built.get_delta_weight("default").to(dtype), ()
        )
    merged = model.merge_and_unload(safe_merge=True)
    weight = merged[0].weight.detach().clone()
    quantize_(merged, qat.scheme(kind, group))
    exported = merged[0].weight.dequantize()
    assert exported.dtype == dtype
    assert torch.equal(used, exported)
    assert torch.equal(qat_layers.quantizer(kind, group, dtype)(weight), exported)
    assert not torch.equal(weight, exported)
    slack = 2e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(trained, exported, atol=slack, rtol=0)


def test_gradients_pass_the_rounding_to_the_factors_alone() -> None:
    """dA = s B^T G and dB = s G A^T with G = dY^T X; the input's gradient sees the rounded sum."""
    _, built = layer("int4", 32, torch.float32)
    x = torch.randn(5, 64, requires_grad=True)
    seen = torch.randn(5, 48)
    built(x).backward(seen)
    a, b = built.lora_A["default"].weight, built.lora_B["default"].weight
    whole = seen.T @ x.detach()
    torch.testing.assert_close(a.grad, 1.5 * b.detach().T @ whole)
    torch.testing.assert_close(b.grad, 1.5 * whole @ a.detach().T)
    summed = built.base_layer.weight.detach() + (b @ a).detach() * 1.5
    rounded = qat_layers.quantizer("int4", 32, torch.float32)(summed)
    torch.testing.assert_close(x.grad, seen @ rounded)
    assert built.base_layer.weight.grad is None


def test_what_is_kept_for_scoring_follows_the_weights() -> None:
    """Without gradients the rounded sum is made once, and anew when a factor has changed."""
    model, built = layer("int4", 32, torch.float32)
    x = torch.randn(2, 64)
    with torch.no_grad():
        first = built(x)
        assert torch.equal(built(x), first)
        built.lora_B["default"].weight.mul_(3)
        moved = built(x)
        assert not torch.equal(moved, first)
        with model.disable_adapter():
            weight = qat_layers.quantizer("int4", 32, torch.float32)(built.base_layer.weight)
            assert torch.equal(built(x), functional.linear(x, weight, built.base_layer.bias))
        assert torch.equal(built(x), moved)
        with qat_layers.plain(model):
            plainly = (
                built.base_layer(x) + built.lora_B["default"](built.lora_A["default"](x)) * 1.5
            )
            assert torch.equal(built(x), plainly)
        assert torch.equal(built(x), moved)


def made(recipe: Path, folder: Path) -> plan.Plan:
    return make.make(recipe_load.load(recipe, verb="lora"), hardware.detect(), output=folder)


def quantized_loss(recipe: Path, folder: Path, kind: str, group: int | None) -> float:
    """The held-out loss of a merged artefact that transformers has torchao quantize on loading."""
    config = TorchAoConfig(qat.scheme(kind, group))
    model = AutoModelForCausalLM.from_pretrained(
        folder / "merged",
        dtype=torch.float32,
        quantization_config=config,
        attn_implementation="tuner_rows",
    )
    return evaluate.score(made(recipe, folder / "again"), model)["loss"]


@pytest.mark.parametrize(
    ("kind", "targets"), [("int8", ["all-linear"]), ("int4", ["q_proj", "v_proj"])]
)
def test_the_scores_are_those_of_the_quantized_export(
    kind: str,
    targets: list[str],
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., dict[str, Any]],
    tmp_path: Path,
    bases: Callable[[str], Path],
) -> None:
    """Layers without an adapter included; the adapter and the merged model stay plain."""
    recipe = make_recipe(
        "llama-tied",
        method={"name": "rslora", "r": 4, "target_modules": targets},
        train={"qat": kind, "learning_rate": 0.003, "epochs": 4},
        eval={"samples": 0},
        export=FORMATS,
    )
    record = run_recipe(recipe, verb="lora")
    folder, scores = tmp_path / "run", record["scores"]
    group = 32 if kind == "int4" else None
    exported = quantized_loss(recipe, folder, kind, group)
    assert scores["after"]["loss"] == pytest.approx(exported, abs=2e-6)
    assert scores["unquantized"]["loss"] != pytest.approx(exported, abs=1e-4)
    base = AutoModelForCausalLM.from_pretrained(
        bases("llama-tied"), attn_implementation="tuner_rows"
    )
    tuned = PeftModel.from_pretrained(base, folder / "adapter")
    plainly = evaluate.score(made(recipe, folder / "again"), tuned)["loss"]
    assert scores["unquantized"]["loss"] == pytest.approx(plainly, abs=2e-6)
    assert "unquantized" in (folder / "report.html").read_text("utf-8")
    assert all(item["verified"] for item in record["artefacts"])


def said(times: range) -> list[dict[str, str]]:
    """Six answers, each asked for several times in words that differ a little."""
    return [
        {**row, "instruction": f"{row['instruction']} Time {time}."}
        for time in times
        for row in rows(6)
    ]


def outlying(base: Path, folder: Path) -> Path:
    """A copy of a base with what makes four bits hard in large models: a few inputs whose weights
    are eight times the others' (Dettmers et al. 2022)."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight[:, ::32] *= 8
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def test_training_for_int4_beats_quantizing_afterwards(
    bases: Callable[[str], Path],
    make_recipe: Callable[..., Path],
    run_recipe: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """The same recipe and seed with and without, both quantized to the same grid at the end."""
    base = outlying(bases("llama"), tmp_path / "base")
    losses = {}
    for kind in ("int4", "none"):
        recipe = make_recipe(
            name=f"{kind}.yaml",
            data_rows=said(range(4)),
            model={"base": str(base)},
            method={"name": "lora", "r": 16},
            train={"qat": kind, "epochs": 16, "learning_rate": 0.005, "scheduler": "cosine"},
            eval={"samples": 0},
            export={"formats": ["merged"]},
            run={"seed": 1},
        )
        write_rows(tmp_path / "eval.jsonl", said(range(7, 8)))
        run_recipe(recipe, kind, verb="lora")
        losses[kind] = quantized_loss(recipe, tmp_path / kind, "int4", 32)
    assert losses["int4"] < 0.95 * losses["none"]


@pytest.mark.parametrize(
    ("kind", "sections", "said"),
    [
        ("llama", {"method": {"name": "dora"}}, "method.name: dora"),
        ("llama", {"method": {"name": "full"}}, "method.name: full"),
        ("llama", {"method": {"name": "ia3"}}, "method.name: ia3"),
        ("llama", {"method": {"name": "lora", "init": "pissa"}}, "method.init: pissa"),
        ("llama", {"method": {"name": "lora", "init": "olora"}}, "method.init: olora"),
        ("llama", {"method": {"name": "lora", "dropout": 0.1}}, "method.dropout: 0.1"),
        ("llama", {"method": {"name": "lora", "modules_to_save": ["lm_head"]}}, "modules_to_save"),
        ("llama", {"model": {"quantize": "int8"}}, "model.quantize: int8"),
        ("mixtral", {"method": {"name": "lora", "experts": True}}, "method.experts"),
        ("mixtral", {}, "experts"),
        ("gpt2", {}, "nn.Linear"),
        ("t5", {}, "only decoders are supported"),
        ("llama", {"model": {"task": "classification"}, "data": {"labels": ["a"]}}, "generate"),
    ],
)
def test_what_cannot_be_is_refused(
    kind: str, sections: dict[str, Any], said: str, make_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = make_recipe(kind, train={"qat": "int4"}, **sections)
    with pytest.raises(RecipeError) as caught:
        make.make(recipe_load.load(recipe, verb="sft"), hardware.detect(), output=tmp_path / "run")
    assert caught.value.exit_code == 2
    assert said in " ".join([caught.value.why or "", *caught.value.problems])
    assert "train.qat: int4" in " ".join([caught.value.what, *caught.value.problems])


def test_without_torchao_the_plan_names_the_extra(
    make_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_qat, "find_spec", lambda name: None)
    with pytest.raises(RecipeError) as caught:
        made(make_recipe(train={"qat": "int8"}), tmp_path / "run")
    assert packages.add("torchao") in " ".join(caught.value.problems)


def test_nothing_of_what_torchao_announces_is_shown() -> None:
    """It logs the GPU libraries that it cannot load as soon as transformers finds it."""
    code = (
        "import sys\nfrom tuner import cli\n"
        "try: cli.main(['--version'])\nexcept SystemExit: pass\n"
        "import tuner.run.spine\nprint('torchao.quantization' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("True\n")
    assert done.stderr == ""


def test_the_plan_tells_scheme_and_cost(make_recipe: Callable[..., Path], tmp_path: Path) -> None:
    plain = made(make_recipe(), tmp_path / "a")
    told = made(make_recipe(train={"qat": "int4"}), tmp_path / "b")
    assert "one scale per 32 inputs" in told.facts["qat"]["weights"]
    assert "every step" in told.facts["qat"]["cost"]
    assert "qat" not in plain.facts
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    more = told.facts["memory"]["weights"] - plain.facts["memory"]["weights"]
    assert more == 4 * linear
    assert qat.group_size({"a": 576, "b": 1536}) == 64
    assert qat.group_size({"a": 4096, "b": 11008}) == 128
    assert qat.group_size({"a": 4096, "b": 72}) is None
