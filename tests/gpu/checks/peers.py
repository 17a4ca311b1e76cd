"""The same rows and start by others: a plain loop, a peer's stack, trl."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from tests.gpu import contenders, shapes
from tests.gpu.checks import ours
from tests.gpu.program import Bench, first_line

# At the same step of the same start.
LOSS = 2e-3


def eight(bench: Bench) -> None:
    """8B, 4 rows of 2,048 tokens, LoRA."""
    shape = shapes.fitting(shapes.EIGHT, bench.fake is not None)
    if "eight" not in bench.kept:
        ours.eight(bench)
    speeds = _all(bench, shape, *bench.kept["eight"])
    mine = bench.kept["eight"][1].speed(ours.WARM)
    _bars(bench, mine, speeds, {"peer": 1.2, "plain": 1.8})
    # Gives the GPU back for what follows.
    bench.kept.pop("eight")


def eight_nf4(bench: Bench) -> None:
    """The same rows on a base in 4 bits: tuner, and a plain loop."""
    shape = shapes.fitting(shapes.EIGHT, bench.fake is not None)
    given = {"train": {"micro_batch_size": 4}, "model": {"quantize": "nf4"}}
    plan = ours.plan_for(bench, shape, ours.FOUR, **given)
    parameters = int(plan.facts["parameters"]["total"])
    model = shapes.in_four_bits(ours.model_for(bench, shape, plan))
    weights = ours.weights_of(bench, shape)
    other = shapes.in_four_bits(shapes.model_of(shape.config(), weights, "sdpa"))
    # Both have their own weights now.
    del weights
    bench.kept.pop("weights")
    bench.kept.pop("shape")
    ran, start, _ = contenders.ours(plan, model)
    # The other model was there, too.
    there = sum(each.nbytes for each in other.parameters())
    mine = ours.figures(bench, "nf4", ran, parameters)
    ran.reserved -= there
    ours.memory(bench, "nf4", plan, ran)
    del model
    gc.collect()
    steps = shapes.steps_of(plan)
    contenders.recompute(other)
    batches = [contenders.plain_batch(rows) for rows in steps]
    plain = contenders.loop(contenders.with_lora(other, start), batches, _tokens(steps))
    bench.say(nf4_times_plain=mine / ours.figures(bench, "nf4_plain", plain, parameters))
    apart = max(abs(a - b) for a, b in zip(plain.losses, ran.losses, strict=True))
    bench.bar("nf4_losses_apart", apart, most=LOSS)


def one(bench: Bench) -> None:
    """1B: LoRA by all; then full and prefix by tuner."""
    shape = shapes.fitting(shapes.ONE, bench.fake is not None)
    plan = ours.plan_for(bench, shape, ours.FOUR, train={"micro_batch_size": 4})
    parameters = int(plan.facts["parameters"]["total"])
    ran, start, _ = contenders.ours(plan, ours.model_for(bench, shape, plan))
    mine = ours.figures(bench, "lora", ran, parameters)
    ours.memory(bench, "lora", plan, ran)
    speeds = _all(bench, shape, plan, ran, start)
    _bars(bench, mine, speeds, {"peer": 1.5})
    methods: dict[str, dict[str, Any]] = {
        "prefix": {"name": "prefix", "num_virtual_tokens": 16},
        "full": {"name": "full"},
    }
    for name, method in methods.items():
        plan = ours.plan_for(bench, shape, ours.FOUR, method=method)
        model = ours.model_for(bench, shape, plan)
        # The model alone has them: what is trained whole is copied.
        bench.kept.pop("weights")
        bench.kept.pop("shape")
        gc.collect()
        ran, _, _ = contenders.ours(plan, model)
        ours.figures(bench, name, ran, parameters, full=name == "full")
        ours.memory(bench, name, plan, ran)


def _bars(bench: Bench, mine: float, speeds: dict[str, float], least: dict[str, float]) -> None:
    for name, times in least.items():
        if name in speeds:
            bench.bar(f"times_{name}", mine / speeds[name], least=times, speed=True)


def _all(
    bench: Bench,
    shape: shapes.Shape,
    plan: Any,
    mine: contenders.Ran,
    start: dict[str, torch.Tensor],
) -> dict[str, float]:
    """Run each contender; one that fails says so, and the others run. Return their speeds."""
    steps = shapes.steps_of(plan)
    parameters = int(plan.facts["parameters"]["total"])
    makers: dict[str, Callable[..., contenders.Ran]] = {"plain": _plain, "peer": _peer, "trl": _trl}
    speeds = {}
    for name, make in makers.items():
        gc.collect()
        torch.cuda.empty_cache()
        try:
            ran = make(bench, shape, steps, start)
        except Exception as error:
            bench.say(**{name: f"failed: {type(error).__name__}: {first_line(error)}"})
            bench.missed.append(f"{name} failed")
            continue
        speeds[name] = ours.figures(bench, name, ran, parameters)
        pairs = list(zip(ran.losses, mine.losses, strict=True))
        bench.bar(f"{name}_losses_apart", max(abs(a - b) for a, b in pairs), most=LOSS)
    return speeds


def _tokens(steps: list[list[Any]]) -> list[int]:
    return [sum(len(row.input_ids) for row in rows) for rows in steps]


def _plain(bench: Bench, shape: shapes.Shape, steps: Any, start: Any) -> contenders.Ran:
    """transformers and peft in a loop: SDPA, recomputed."""
    model = shapes.model_of(shape.config(), ours.weights_of(bench, shape), "sdpa")
    contenders.recompute(model)
    model = contenders.with_lora(model, start)
    return contenders.loop(model, [contenders.plain_batch(rows) for rows in steps], _tokens(steps))


def _peer(bench: Bench, shape: shapes.Shape, steps: Any, start: Any) -> contenders.Ran:
    """transformers, peft, Liger and FlashAttention on packed rows: what Axolotl runs."""
    try:
        return _packed(bench, shape, steps, start, recompute=False)
    except torch.OutOfMemoryError:
        bench.say(peer_recomputes=True)
    gc.collect()
    torch.cuda.empty_cache()
    return _packed(bench, shape, steps, start, recompute=True)


def _packed(
    bench: Bench, shape: shapes.Shape, steps: Any, start: Any, recompute: bool
) -> contenders.Ran:
    name = contenders.register_varlen()
    model = shapes.model_of(shape.config(), ours.weights_of(bench, shape), name)
    with contenders.liger(model, bench.fake is None) as said:
        bench.say(peer=said)
        if recompute:
            contenders.recompute(model)
        made = contenders.with_lora(model, start)
        batches = [contenders.packed_batch(rows) for rows in steps]
        return contenders.loop(made, batches, _tokens(steps))


def _trl(bench: Bench, shape: shapes.Shape, steps: Any, start: Any) -> contenders.Ran:
    """trl's SFTTrainer as it comes, on rows that are prepared."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from tests.tokenizers import make_tokenizer

    ran = contenders.Ran(tokens=_tokens(steps))
    rows = []
    for row in (row for each in steps for row in each):
        wanted = zip(row.input_ids, row.supervised, strict=True)
        labels = [token if seen else -100 for token, seen in wanted]
        rows.append({"input_ids": list(row.input_ids), "labels": labels})

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            ran.seconds.append(time.perf_counter() - self.began)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            if "loss" in logs:
                ran.losses.append(float(logs["loss"]))

    model = shapes.model_of(shape.config(), ours.weights_of(bench, shape), "sdpa")
    settings = SFTConfig(
        output_dir=str(bench.folder / "trl"),
        max_steps=len(steps),
        per_device_train_batch_size=len(steps[0]),
        learning_rate=contenders.RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=True,
        train_sampling_strategy="sequential",
        max_length=None,
    )
    trainer = SFTTrainer(
        model=contenders.with_lora(model, start),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=make_tokenizer("chatml"),
        callbacks=[Clock()],
    )
    with contenders.peaks(ran):
        trainer.train()
    return ran
