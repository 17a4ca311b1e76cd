"""One step of a tiny model: loss and gradients on the GPU against the CPU in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from tests.gpu import runs
from tests.gpu.checks.kernels import apart
from tests.gpu.program import Bench, first_line
from tuner.machine import hardware
from tuner.plan import make as plan_make
from tuner.recipe import load as recipe_load
from tuner.run import build
from tuner.tasks.sft import token_loss
from tuner.tasks.trained import trainable

LORA = {"name": "lora", "r": 4}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# For each type of numbers the error of a loss and of a gradient.
BARS = {"bfloat16": (1e-2, 5e-2), "float16": (2e-3, 1e-2), "float32": (1e-5, 1e-4)}
CASES: dict[str, dict[str, Any]] = {
    "bf16": {"method": LORA},
    "fp16": {"method": LORA, "model": {"dtype": "float16"}},
    "fp32": {"method": LORA, "model": {"dtype": "float32"}},
    "recomputed": {"method": LORA, "train": {"gradient_checkpointing": True}},
    "dora": {"method": {"name": "dora", "r": 4}},
    "nf4": {"method": LORA, "model": {"quantize": "nf4"}},
    "full": {"method": {"name": "full"}},
    "prefix": {"method": {"name": "prefix", "num_virtual_tokens": 4}},
}


def check(bench: Bench) -> None:
    """Each case, with packed rows that share their beginning."""
    failed = []
    for name, sections in CASES.items():
        folder = Path(bench.folder) / f"gradients-{name}"
        folder.mkdir()
        try:
            dtype, loss, gradient = _errors(folder, sections)
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {first_line(error)}")
            bench.say(**{name: failed[-1]})
            continue
        most = BARS[dtype]
        bench.bar(f"{name}_loss", loss, most=most[0])
        bench.bar(f"{name}_gradient", gradient, most=most[1])
    bench.missed += failed


def _errors(folder: Path, sections: dict[str, Any]) -> tuple[str, float, float]:
    """Return the type of numbers and the errors of the loss and of all gradients together."""
    made = runs.plan(runs.write(folder, **sections))
    trained = build.start(made, build.load(made))
    torch.manual_seed(3)
    with torch.no_grad():
        for _, each in trainable(trained.model):
            # B of LoRA begins at 0, which would leave A without a gradient.
            each.add_(torch.randn(each.shape).mul_(0.02).to(each))
    exact = _in_double(folder, sections, trained.model)
    rows = made.prepared.train[:4]
    dtype = DTYPES[made.dtype]
    live = _gradients(made, trained.model, rows, "cuda", dtype)
    right = _gradients(made, exact, rows, "cpu", torch.float64)
    assert live.keys() == right.keys()
    names = [name for name in right if name != "loss"]
    both = [torch.cat([each[name].double().flatten() for name in names]) for each in (live, right)]
    return made.dtype, apart(live["loss"][None], right["loss"][None]), apart(*both)


def _in_double(folder: Path, sections: dict[str, Any], live: Any) -> Any:
    """Return the same model on the CPU, in float64."""
    recipe = runs.write(
        folder,
        **{
            **sections,
            "model": {**sections.get("model", {}), "quantize": "none", "dtype": "float32"},
            "run": {"device": "cpu"},
        },
    )
    alone = dataclasses.replace(hardware.detect(), gpus=())
    loaded = recipe_load.load(recipe, verb="sft")
    made = plan_make.make(loaded, alone, output=folder / "unused")
    exact = build.start(made, build.load(made)).model.double()
    values = {name: each.detach() for name, each in live.named_parameters()}
    with torch.no_grad():
        for name, each in exact.named_parameters():
            value = values[name]
            state = getattr(value, "quant_state", None)
            if state is None and hasattr(live.get_parameter(name), "quant_state"):
                state = live.get_parameter(name).quant_state
            if state is not None:
                from bitsandbytes.functional import dequantize_4bit

                value = dequantize_4bit(value, state)
            each.copy_(value.cpu())
    return exact


def _gradients(
    plan: Any, model: Any, rows: Any, device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return the loss and the gradients of one micro-batch, on the CPU."""
    batch = plan.training_collate(rows)
    labels = batch.pop("labels").to(device)
    moved = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
    model.train()
    half = dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(device, dtype=dtype, enabled=half):
        outputs = model(**moved, use_cache=False)
    if half:
        # As accelerate does around a model.
        outputs.logits = outputs.logits.float()
    count = torch.tensor(float((labels[:, 1:] != -100).sum()), device=device)
    loss = token_loss(outputs, labels, count)
    loss.backward()
    found = {name: each.grad for name, each in trainable(model) if each.grad is not None}
    return {"loss": loss.detach().cpu(), **{name: each.cpu() for name, each in found.items()}}
