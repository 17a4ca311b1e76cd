"""Memory that runs out goes on smaller; a long row takes what was planned."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from tests.gpu import contenders, shapes
from tests.gpu.checks import ours
from tests.gpu.program import Bench
from tuner.machine import hardware


def check(bench: Bench) -> None:
    """A step that cannot fit; then one row of 32,768 tokens."""
    shape = shapes.fitting(shapes.EIGHT, bench.fake is not None)
    _goes_on(bench, shape)
    # 32,768 tokens; a fake GPU gets fewer.
    tokens = 32_768 if bench.fake is None else 4096
    plan = ours.plan_for(bench, shape, (tokens,), train={"max_steps": 3})
    ran, _, _ = contenders.ours(plan, ours.model_for(bench, shape, plan))
    ours.figures(bench, "long", ran, int(plan.facts["parameters"]["total"]))
    ours.memory(bench, "long", plan, ran)


def _goes_on(bench: Bench, shape: shapes.Shape) -> None:
    """Plan for a card that is larger than this one; the run finds out and halves its rows."""
    here = hardware.detect()
    larger = [dataclasses.replace(each, memory_bytes=64 * each.memory_bytes) for each in here.gpus]
    machine = dataclasses.replace(here, gpus=tuple(larger))
    rows = (2048,) * 64
    plan = ours.plan_for(
        bench,
        shape,
        rows,
        machine,
        train={"micro_batch_size": 64, "max_steps": 1, "gradient_checkpointing": False},
    )
    weights = ours.weights_of(bench, shape)
    model = ours.model_for(bench, shape, plan)
    if bench.fake:
        # Room for the weights and a fraction of the rows.
        bench.fake.memory = torch.cuda.memory_allocated() + 24 * len(weights) * 8192
    try:
        contenders.ours(plan, model)
    finally:
        if bench.fake:
            bench.fake.memory = 80 << 30
    record = json.loads((Path(plan.output) / "run.json").read_text("utf-8"))
    found = record.get("out_of_memory") or []
    bench.say(out_of_memory=[(each["from"], each["to"]) for each in found])
    if not found:
        bench.missed.append("64 rows at once did not run out of memory")
