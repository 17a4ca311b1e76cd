"""The 8B shape by tuner: tokens per second, memory against the plan, launches, waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.gpu import contenders, profiled, shapes
from tests.gpu.program import Bench
from tuner.machine import hardware
from tuner.model.kernels import attention
from tuner.model.transformers_errors import quiet_libraries
from tuner.plan import make as plan_make
from tuner.plan.plan import Plan
from tuner.recipe import load as recipe_load

# Steps that do not count, and those that do.
WARM, TIMED = 2, 4
PEAK = 989e12
FOUR, UNEVEN = (2048,) * 4, tuple(range(128, 1088, 60))
# The bar for one H100, and the share by which memory may miss the plan.
TOKENS, MEMORY = 11_000, 0.10


def plan_for(
    bench: Bench,
    shape: shapes.Shape,
    lengths: tuple[int, ...],
    machine: hardware.Machine | None = None,
    **sections: Any,
) -> Plan:
    """Return the plan of a run of random rows of these lengths, one step for each set of them."""
    folder = Path(bench.folder)
    base = folder / shape.name
    if not base.exists():
        shapes.write_base(shape, base)
    fake = bench.fake is not None
    rows = shapes.rows_of([shapes.length(each, fake) for each in lengths] * (WARM + TIMED))
    number = len(list(folder.glob("speed-*")))
    own = folder / f"speed-{number}"
    own.mkdir()
    (own / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given: dict[str, Any] = {
        "model": {"base": str(base), "dtype": "bfloat16"},
        "data": {"train": "train.jsonl", "eval": 0},
        "train": {
            "max_steps": WARM + TIMED,
            "batch_size": len(lengths),
            "learning_rate": contenders.RATE,
            "scheduler": "constant",
            "warmup": 0,
        },
        "eval": {"enabled": False, "samples": 0},
        "export": {"formats": []},
    }
    for name, section in {"method": {"name": "lora", "r": 16}, **sections}.items():
        given[name] = {**given.get(name, {}), **section}
    (own / "r.yaml").write_text(json.dumps(given))
    loaded = recipe_load.load(own / "r.yaml", verb="sft")
    return plan_make.make(loaded, machine or hardware.detect(), output=own / "run")


def weights_of(bench: Bench, shape: shapes.Shape) -> dict[str, torch.Tensor]:
    """Return random weights of a shape on the GPU; only those of one shape are kept."""
    if bench.kept.get("shape") != shape:
        bench.kept.pop("weights", None)
        torch.cuda.empty_cache()
        bench.kept["weights"] = shapes.random_weights(shape.config(), "cuda")
        bench.kept["shape"] = shape
    found: dict[str, torch.Tensor] = bench.kept["weights"]
    return found


def model_for(bench: Bench, shape: shapes.Shape, plan: Plan) -> Any:
    """Return the base of a plan around random weights."""
    quiet_libraries()
    attention.register()
    name = attention.ROWS if plan.packing else "sdpa"
    return shapes.model_of(shape.config(), weights_of(bench, shape), name)


def figures(
    bench: Bench, name: str, ran: contenders.Ran, parameters: int, full: bool = False
) -> float:
    """Say what training gave; return real tokens per second.

    MFU counts 4 FLOP per parameter and token for LoRA, 6 where every weight is trained; causal
    attention and recomputation do not count.
    """
    speed = ran.speed(WARM)
    rate = (6 if full else 4) * parameters * speed
    bench.say(
        **{
            f"{name}_tokens_per_second": speed,
            f"{name}_mfu": rate / PEAK,
            f"{name}_of_measured_product": rate / bench.kept.get("product", PEAK),
            f"{name}_allocated_gib": ran.allocated / 2**30,
            f"{name}_reserved_gib": ran.reserved / 2**30,
            f"{name}_losses": [round(loss, 5) for loss in ran.losses],
        }
    )
    return speed


def memory(bench: Bench, name: str, plan: Plan, ran: contenders.Ran) -> None:
    """Compare what the allocator reserved, and CUDA's context, with the plan."""
    planned = plan.facts["memory"]
    total = int(planned["total"])
    measured = ran.reserved + int(planned["process"])
    bench.say(**{f"{name}_planned_gib": total / 2**30})
    bench.bar(f"{name}_beside_plan", abs(measured / total - 1), most=MEMORY, speed=True)


def eight(bench: Bench) -> None:
    """4 rows of 2,048 tokens; then 16 uneven ones; then one micro-batch, profiled."""
    shape = shapes.fitting(shapes.EIGHT, bench.fake is not None)
    plan = plan_for(bench, shape, FOUR, train={"micro_batch_size": 4})
    bench.say(recomputes=plan.gradient_checkpointing, micro_batch_size=plan.micro_batch_size)
    ran, start, trained = contenders.ours(plan, model_for(bench, shape, plan))
    parameters = int(plan.facts["parameters"]["total"])
    speed = figures(bench, "four", ran, parameters)
    bench.bar("four_speed", speed, least=TOKENS, speed=True)
    memory(bench, "four", plan, ran)
    bench.kept["eight"] = (plan, ran, start)
    seen = profiled.micro_batch(bench.fake, plan, trained.model, shapes.steps_of(plan)[0])
    bench.say(**seen.values)
    bench.bar("launches_of_a_micro_batch", seen.launches, most=6000, speed=True)
    bench.bar("waits_between_layers", seen.waits, most=0)
    del trained
    plan = plan_for(bench, shape, UNEVEN)
    ran, _, _ = contenders.ours(plan, model_for(bench, shape, plan))
    figures(bench, "uneven", ran, parameters)
    memory(bench, "uneven", plan, ran)
