"""Training alone, without scores and export, and the oracle of its updates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests import oracle
from tuner.data.tokens import order as data_order
from tuner.machine import hardware
from tuner.plan import make
from tuner.recipe import load as recipe_load
from tuner.record import checkpoint
from tuner.tasks import sft

Tensors = dict[str, torch.Tensor]


@dataclass
class Fit:
    """What training alone left: no scores, no export.

    Attributes:
        plan: what was trained.
        model: the trained model.
        start: its trained tensors before the first step.
        metrics: the lines of metrics.jsonl.
        stages: all tensors of the model after each stage but the last.
        unmoved: as the program says.
        folder: the run folder.
    """

    plan: Any
    model: Any
    start: Tensors
    metrics: list[dict[str, Any]]
    stages: list[Tensors]
    unmoved: list[str]
    folder: Path

    def tensors(self) -> Tensors:
        return tensors(self.model)

    def sealed(self, step: int) -> checkpoint.Checkpoint:
        return checkpoint.load(self.folder / "checkpoints" / f"step-{step}")


def tensors(live: Any, trained: bool = True) -> Tensors:
    return {
        name: parameter.detach().clone()
        for name, parameter in live.named_parameters()
        if parameter.requires_grad or not trained
    }


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def make_plan(recipe: Path, output: Path) -> Any:
    loaded = recipe_load.load(recipe, verb="sft")
    return make.make(loaded, hardware.detect(), output=output)


class Reference:
    """The oracle's model, under the run's names of the trained tensors."""

    def __init__(self, done: Fit, folder: Path) -> None:
        self.network = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
        self.train = done.plan.recipe.train
        name = done.plan.recipe.method.name
        if name == "full":
            self.named = dict(self.network.named_parameters())
        else:
            factors = {
                key.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight"): (
                    value,
                    done.start[key.replace("lora_A", "lora_B")],
                )
                for key, value in done.start.items()
                if "lora_A" in key
            }
            kind = oracle.DoraLinear if name == "dora" else oracle.LoraLinear
            scale = 2.0  # method.alpha is 2 x r by default
            layers = oracle.put_lora(self.network, factors, scale, kind)
            self.named = {
                f"base_model.model.{layer}.{theirs}.default.weight": parameter
                for layer, module in layers.items()
                for theirs, parameter in (
                    ("lora_A", module.a),
                    ("lora_B", module.b),
                    *([("lora_magnitude_vector", module.m)] if name == "dora" else []),
                )
            }
        assert self.named.keys() == done.start.keys()
        self.optimizer = oracle.AdamW(list(self.named.values()), self.train.weight_decay)
        self.moved = 0.0

    def step(self, batch: list[Any], rate: float) -> tuple[float, float]:
        """One update; its loss and gradient norm."""
        return self.update(oracle.step_loss(self.network, batch), rate)

    def update(self, loss: torch.Tensor, rate: float) -> tuple[float, float]:
        """Go back from a loss and step; the loss and the gradient norm."""
        for parameter in self.named.values():
            parameter.grad = None
        loss.backward()
        for parameter in self.named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = oracle.clip(list(self.named.values()), self.train.max_grad_norm)
        self.optimizer.step(rate)
        self.moved += rate
        return float(loss), norm

    def check(self, done: Fit, step: int, several: bool = False) -> None:
        """The run's sealed step is this reference's: moments of the gradients, and tensors.

        Over several steps rounding grows, since Adam divides by small numbers: kernels that are as
        near to float64 as each other came to 0.7e-4 to 1.1e-4 after four steps of DoRA.
        """
        limit = 2e-4 if several else 1e-5
        sealed = done.sealed(step)
        first = dict(zip(self.named, self.optimizer.first, strict=True))
        second = dict(zip(self.named, self.optimizer.second, strict=True))
        largest = max(float(value.abs().max()) for value in first.values())
        for name, wanted in self.named.items():
            moment = sealed.optimizer_tensors[f"{name}/exp_avg"]
            scale = max(float(first[name].abs().max()), 1e-4 * largest)
            assert float((moment - first[name]).abs().max()) < limit * scale, name
            # Adam divides a gradient by its own size: where that is small, so is what is certain.
            root = second[name].sqrt()
            certain = limit * root.max() / root.clamp_min(1e-12)
            value = wanted.detach()
            difference = (sealed.tensors[name] - value).abs()
            bound = self.moved * certain + 1e-6 * value.abs().max()
            assert bool((difference <= 2 * self.moved + bound).all()), name
            assert float((difference <= bound).float().mean()) >= (0.999 if several else 1.0), name
            assert float((certain[root > 0] < 0.1).float().mean()) > 0.5 or not bool(root.any())


def order(done: Fit) -> list[list[Any]]:
    """The rows of every step of a run of one stage."""
    stage = done.plan.stages[0]
    batch = done.plan.recipe.train.batch_size
    places = sft.places(done.plan, stage)
    stream = data_order.Stream(
        done.plan.prepared.train,
        done.plan.recipe.run.seed,
        places.start,
        places.stop,
        batch,
        grouped=False,
    )
    return [stream.step(number) for number in range(stage.steps)]
