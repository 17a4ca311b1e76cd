"""Runs on a GPU that end right: devices, float16, resuming, attention, and memory (on the fake)."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from tests.gpu import runs
from tests.gpu.fake import Fake
from tests.gpu.forked import on_fake
from tests.run.launched import assert_equal
from tuner.console.console import Console
from tuner.errors import RecipeError, TrainingError
from tuner.machine import processes
from tuner.run import build, rehearsal, spine
from tuner.tasks import gradients, loss_scale

LORA = {"name": "lora", "r": 4}
# What a test does not look at.
SHORT: dict[str, Any] = {"eval": {"enabled": False, "samples": 0}, "export": {"formats": []}}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@on_fake(devices=2)
def test_trl_is_given_one_of_two_gpus(tmp_path: Path) -> None:
    """Its trainers are the Trainer's, which would split a micro-batch among all that it sees."""
    from trl import DPOConfig

    from tests.gpu.matrix import CASES, preferences
    from tuner.tasks import trl_lending

    sections = {**CASES["dpo"].sections, "run": {"devices": 1}}
    recipe = runs.write(tmp_path, data_rows=preferences(), **sections)
    made = trl_lending.arguments(DPOConfig, runs.plan(recipe, "rlhf"), 2)
    assert torch.cuda.device_count() == 2
    assert made.n_gpu == 1
    assert made.train_batch_size == made.per_device_train_batch_size


class Loaded(torch.nn.Module):
    """As much of a quantized model as accelerate looks at."""

    is_loaded_in_4bit = True

    def __init__(self, place: Any) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.hf_device_map = {"": place}


@on_fake(devices=2)
def test_a_quantized_base_names_its_gpu_by_number() -> None:
    """accelerate compares the device that weights were loaded to with the number of this process's
    GPU, and refuses to train on `cuda` alone."""
    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM

    from tests.gpu.forked import base
    from tuner.export.proof import reload
    from tuner.model import weights
    from tuner.model.base import Base
    from tuner.model.heads import HEADS
    from tuner.recipe.schema_model import ModelSection

    torch.cuda.set_device(1)
    found: list[Any] = []

    def from_pretrained(*given: Any, device_map: Any, **more: Any) -> Any:
        found.append(device_map[""])
        model = Loaded(device_map[""])
        return (model, {}) if more.get("output_loading_info") else model

    place = base("llama")
    opened = Base("llama", "folder", place, json.loads((place / "config.json").read_text()))
    section = ModelSection(base="llama", quantize="nf4")
    job = {"dtype": "bfloat16", "trust_remote_code": False, "num_labels": 0, "device": "cuda"}
    job |= {"quantize": "nf4", "auto_class": "AutoModelForCausalLM", "base": str(place)}
    with mock.patch.object(AutoModelForCausalLM, "from_pretrained", from_pretrained):
        live = weights.open_weights(opened, section, HEADS["language"], "bfloat16", "cuda")
        reload.base(job)
    assert found == [torch.device("cuda:1")] * 2
    accelerator = Accelerator()
    accelerator.state.device = torch.device("cuda:1")
    accelerator.state.distributed_type = "MULTI_GPU"
    accelerator.prepare_model(live, evaluation_mode=True)
    with pytest.raises(ValueError, match="on a different device"):
        accelerator.prepare_model(Loaded("cuda"), evaluation_mode=True)


def overflowing(steps: dict[int, int]) -> Any:
    """Let the gradients of some steps, from 0, overflow so many times each."""
    true = gradients.clip

    def clip(leg: Any, rows: Any, loss: float = 0.0) -> float:
        if leg.step.number in steps and leg.loss_scale.overflows < steps[leg.step.number]:
            leg.parameters[0][1].grad.fill_(math.inf)
        return true(leg, rows, loss)

    return mock.patch.object(gradients, "clip", clip)


@on_fake(capability=(7, 5))
def test_an_overflow_in_float16_is_repeated_with_half_the_scale(tmp_path: Path) -> None:
    """No update is lost; a resumed run has the scale of the one that never stopped, and its bytes.
    Where there is no bfloat16, it is the type of an adapter's base."""
    recipe = runs.write(tmp_path, method=LORA, train={"max_steps": 3}, **SHORT)
    made = runs.plan(recipe)
    assert (made.dtype, made.values["model.dtype"].origin) == (
        "float16",
        "auto: the GPU has no native bf16; the adapter is float32",
    )
    with overflowing({0: 2, 1: 1}):
        runs.train(recipe, folder="reference")
        runs.stop_after(2, recipe)
        runs.train(recipe, resume=True)
    found, again = lines(tmp_path / "reference"), lines(tmp_path / "run")
    differing = [
        (key, one[key], other[key])
        for one, other in zip(found, again, strict=True)
        for key in one
        if one[key] != other[key] and key != "seconds"
    ]
    assert differing == []
    assert [line["step"] for line in found] == [1, 2, 3]
    assert [line["loss_scale"] for line in found] == [2.0**14, 2.0**13, 2.0**13]
    assert_equal(tmp_path / "run", tmp_path / "reference")


@on_fake()
def test_gradients_that_never_fit_into_float16_stop_the_run(tmp_path: Path) -> None:
    recipe = runs.write(tmp_path, method=LORA, model={"dtype": "float16"}, **SHORT)
    # Each repetition makes a Trainer, which takes a second here.
    few = mock.patch.object(loss_scale, "_MOST", 3)
    error = pytest.raises(TrainingError, match="of step 2 do not fit into float16")
    with overflowing({1: 99}), few, error as caught:
        runs.train(recipe)
    assert "3 times in a row, at last with a loss scale of 16384" in caught.value.why
    assert [line["step"] for line in lines(tmp_path / "run")] == [1]


@on_fake(capability=(7, 5))
def test_ppo_has_no_loss_scale(tmp_path: Path) -> None:
    from tests.gpu.matrix import CASES, prompts

    sections = CASES["ppo"].sections
    recipe = runs.write(tmp_path, data_rows=prompts(), **sections)
    assert runs.plan(recipe, "rlhf").dtype == "float32"
    recipe = runs.write(tmp_path, data_rows=prompts(), **sections, model={"dtype": "float16"})
    with pytest.raises(RecipeError) as caught:
        runs.plan(recipe, "rlhf")
    assert "rlhf.algorithm: ppo, whose updates have no loss scale" in str(caught.value)


@on_fake()
@pytest.mark.parametrize("name", ["full", "last_layer", "prefix", "ptuning_v2"])
def test_attention_is_the_kernel_for_rows_whatever_is_trained(
    gpu: Fake, tmp_path: Path, name: str
) -> None:
    """Two layers, two steps of one micro-batch: a call each way for a layer, and a second one for
    virtual tokens; SDPA, whose plain kernel keeps all scores, is not called at all."""
    virtual = {"num_virtual_tokens": 4} if name in ("prefix", "ptuning_v2") else {}
    recipe = runs.write(tmp_path, method={"name": name, **virtual}, **SHORT)
    true, watched = spine.train, []

    def train(*given: Any) -> Any:
        with gpu.watch() as seen:
            trained = true(*given)
        watched.append(seen.launches)
        return trained

    with mock.patch.object(spine, "train", train):
        runs.train(recipe)
    (launches,) = watched
    made = runs.plan(recipe)
    calls = 2 * made.gradient_accumulation_steps * 2 * (2 if virtual else 1)
    trained = calls // 2 if name == "last_layer" else calls
    assert launches["torch_attn._varlen_attn.default"] == calls
    assert launches["torch_attn._varlen_attn_backward.default"] == trained
    assert not [each for each in launches if "scaled_dot_product" in each]
    # Every gradient is read once per step, and the norm is one of their norms.
    sealed = load_file(tmp_path / "run" / "checkpoints" / "step-2" / "model.safetensors")
    assert launches["aten.linalg_vector_norm.default"] == 2 * (len(sealed) + 1)


def row_alone(kind: str, dtype: str, device: str) -> Any:
    """The logits of a row without a mask; the tiny base's heads share keys."""
    from tests.gpu.forked import base
    from tuner.model import weights
    from tuner.model.base import Base
    from tuner.model.heads import HEADS
    from tuner.recipe.schema_model import ModelSection

    place = base(kind)
    opened = Base(kind, "folder", place, json.loads((place / "config.json").read_text()))
    model = weights.open_weights(
        opened,
        ModelSection(base=kind),
        HEADS["language"],
        dtype,
        device,
        attn_implementation="sdpa",
    )
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 30, 41]], device=device)).logits


def heads_of_sdpa(calls: list[Any], true: Any) -> Any:
    """Note how many heads the queries and the keys have, and whether SDPA is to match them."""

    def sdpa(query: Any, key: Any, value: Any, **given: Any) -> Any:
        calls.append((query.shape[1], key.shape[1], given.get("enable_gqa", False)))
        return true(query, key, value, **given)

    return sdpa


def check_sdpa(dtype: str, expected: tuple[int, int, bool]) -> None:
    calls: list[Any] = []
    true = torch.nn.functional.scaled_dot_product_attention
    noted = heads_of_sdpa(calls, true)
    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", noted):
        found = row_alone("llama", dtype, "cuda").cpu().float()
    assert set(calls) == {expected}
    wanted = row_alone("llama", "float32", "cpu")
    limit = 1e-5 if dtype == "float32" else 0.05
    assert float((found - wanted).abs().max()) < limit * float(wanted.abs().max())


@on_fake()
@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", (4, 4, False)), ("bfloat16", (4, 2, True))]
)
def test_keys_are_repeated_where_no_fast_kernel_shares_them(
    dtype: str, expected: tuple[int, int, bool]
) -> None:
    """FlashAttention shares keys, in half precision; in float32 SDPA would keep all scores."""
    check_sdpa(dtype, expected)


@on_fake(capability=(7, 5))
def test_keys_are_repeated_on_gpus_without_flash_attention() -> None:
    check_sdpa("float16", (4, 4, False))


@on_fake()
def test_keys_are_repeated_for_rows_with_a_mask(tmp_path: Path) -> None:
    """Labels are scored as trees, in which a label does not see the others."""
    from tests.gpu.matrix import labelled

    recipe = runs.write(
        tmp_path,
        data_rows=labelled(),
        method=LORA,
        data={"template": "instruction", "labels": runs.LABELS},
        eval={"metrics": ["label_accuracy"], "samples": 0},
        train={"max_steps": 1},
        export={"formats": []},
    )
    calls: list[Any] = []
    true = torch.nn.functional.scaled_dot_product_attention
    noted = heads_of_sdpa(calls, true)
    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", noted):
        runs.train(recipe)
    assert set(calls) == {(4, 4, False)}


@on_fake()
def test_loftq_starts_nearer_to_the_whole_base(tmp_path: Path) -> None:
    """In every layer, than the base in 4 bits alone."""
    from bitsandbytes.functional import dequantize_4bit

    from tests.gpu.forked import base

    loftq = {**LORA, "init": "loftq"}
    plan = runs.plan(runs.write(tmp_path, method=loftq, model={"quantize": "nf4"}, **SHORT))
    model = build.start(plan, build.load(plan)).model
    whole, seen = load_file(base("llama") / "model.safetensors"), 0
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        weight = module.base_layer.weight
        quantized = dequantize_4bit(weight.data, weight.quant_state).cpu().float()
        factors = module.lora_B["default"].weight @ module.lora_A["default"].weight
        started = quantized + module.scaling["default"] * factors.detach().cpu()
        wanted = whole[f"{name.removeprefix('base_model.model.')}.weight"]
        assert (started - wanted).norm() < 0.95 * (quantized - wanted).norm(), name
        seen += 1
    assert seen == 14


@on_fake()
def test_the_gpu_is_free_when_the_artefacts_are_proven(tmp_path: Path) -> None:
    """The process that loads them needs the room of the model that was trained."""
    recipe = runs.write(
        tmp_path,
        method=LORA,
        eval=SHORT["eval"],
        export={"formats": ["adapter", "merged"]},
    )
    held: list[tuple[int, int]] = []
    fresh = processes.fresh

    def child(module: str, argument: str) -> Any:
        held.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
        return fresh(module, argument)

    with mock.patch.object(processes, "fresh", child):
        record = runs.train(recipe)
    assert len(held) == 1
    weights = record["plan"]["memory"]["weights"]
    for allocated, reserved in held:
        assert allocated < weights / 20
        assert reserved < weights / 20


@on_fake(memory=8 << 30)
def test_the_micro_batch_is_what_is_free_on_the_gpu(tmp_path: Path) -> None:
    """Other programs use the same GPU; the plan was made for the whole of it."""
    from tuner.errors import ResourceError
    from tuner.plan.memory.estimate import CONTEXT, estimate

    recipe = runs.write(tmp_path, method=LORA, **SHORT)
    planned = runs.plan(recipe)
    assert planned.micro_batch_size == 4
    one = estimate(planned.held, 1, False).total - CONTEXT
    true = torch.cuda.mem_get_info
    for free, sizes in ((one, [(4, 1)]), (8 << 30, [])):
        # Only the first answer is the run's: transformers also asks, while it loads.
        answers = itertools.chain([(free, 8 << 30)], iter(true, None))
        with mock.patch.object(torch.cuda, "mem_get_info", lambda *of, a=answers: next(a)):
            record = runs.train(recipe, folder=f"run-{free}")
        found = record.get("out_of_memory", [])
        assert [(each["from"], each["to"]) for each in found] == sizes
    with (
        mock.patch.object(torch.cuda, "mem_get_info", return_value=(one - 1, 8 << 30)),
        pytest.raises(ResourceError, match="too little memory is free on the GPU") as caught,
    ):
        runs.train(recipe, folder="none")
    assert caught.value.exit_code == 7
    assert "CUDA_VISIBLE_DEVICES" in caught.value.fix
    # So it is in a rehearsal.
    rehearsed: list[int] = []
    short = mock.patch.object(
        rehearsal, "_rehearse", lambda plan, *given: rehearsed.append(plan.micro_batch_size)
    )
    for free in (one, 8 << 30):
        with short, mock.patch.object(torch.cuda, "mem_get_info", return_value=(free, 8 << 30)):
            rehearsal.rehearse(planned, Console(quiet=True))
    assert rehearsed == [1, 4]
