"""Stages: which weights each trains, its rate, its epochs, its scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import rows
from tests.tasks.fitting import Fit, Tensors, tensors
from tuner.tasks import sft

pytestmark = pytest.mark.usefixtures("in_process", "one_thread")


STAGES = [
    {"train": "last_layer", "epochs": 1, "learning_rate": 0.01},
    {"train": "all", "epochs": 1.5, "learning_rate": 0.001},
]
LAST = ("model.layers.1.", "model.norm.", "lm_head.")


def changed(before: Tensors, after: Tensors) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_last_layer_changes_the_final_block_norm_and_head_alone(
    make_recipe: Callable[..., Path], bases: Callable[[str], Path], fit: Callable[..., Fit]
) -> None:
    for kind, last in (("llama", LAST), ("gpt2", ("transformer.h.1.", "transformer.ln_f."))):
        before = tensors(AutoModelForCausalLM.from_pretrained(bases(kind)), trained=False)
        done = fit(make_recipe(kind, method={"name": "last_layer"}))
        names = {name for name in before if name.startswith(last)}
        if kind == "gpt2":  # its head is the embedding matrix
            names.add("transformer.wte.weight")
        assert changed(before, tensors(done.model, trained=False)) == names


def test_staged_trains_the_last_layer_then_everything(
    make_recipe: Callable[..., Path], bases: Callable[[str], Path], fit: Callable[..., Fit]
) -> None:
    """Each stage has its own weights, rate, schedule and whole epochs; the second is partial."""
    before = tensors(AutoModelForCausalLM.from_pretrained(bases("llama")), trained=False)
    recipe = make_recipe(
        data_rows=rows(18),
        method={"name": "staged", "stages": STAGES},
        train={"learning_rate": "auto", "warmup": 0},
    )
    done = fit(recipe)
    (between,) = done.stages
    assert changed(before, between) == {name for name in before if name.startswith(LAST)}
    assert changed(between, tensors(done.model, trained=False)) == set(before)
    assert [line["stage"] for line in done.metrics] == [1] * 5 + [2] * 7
    rates = [line["learning_rate"] for line in done.metrics]
    wanted = [0.01 * (5 - n) / 5 for n in range(5)] + [0.001 * (7 - n) / 7 for n in range(7)]
    assert rates == pytest.approx(wanted, rel=1e-12)
    assert done.metrics[4]["epoch"] == 1.0
    assert done.metrics[-1]["epoch"] == 2.5
    first, second = (sft.places(done.plan, stage) for stage in done.plan.stages)
    assert (first, second) == (range(18), range(18, 45))


def test_staged_scores_after_every_stage(
    make_recipe: Callable[..., Path], run_recipe: Callable[..., Any]
) -> None:
    record = run_recipe(
        make_recipe(
            method={"name": "staged", "stages": STAGES},
            train={"learning_rate": "auto"},
        )
    )
    losses = [record["scores"][when]["loss"] for when in ("before", "stage_1", "after")]
    assert len(record["scores"]) == 3
    assert losses[0] > losses[1] != losses[2]
