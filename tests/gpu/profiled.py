"""One micro-batch under a profiler: kernels launched, places where the CPU waits."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from tuner.tasks.sft import token_loss

if TYPE_CHECKING:
    from tests.gpu.fake import Fake

_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass
class Profile:
    """What was seen.

    Attributes:
        launches: of the forward and the backward pass.
        waits: of the CPU for the GPU between the first layer's beginning and the last one's end.
        values: further ones for the table.
    """

    launches: int
    waits: int
    values: dict[str, Any] = field(default_factory=dict)


def micro_batch(fake: Fake | None, plan: Any, model: Any, rows: Any) -> Profile:
    """Compute one micro-batch, forward and backward, as the Trainer does."""
    batch = plan.training_collate(rows[: plan.micro_batch_size])
    labels = batch.pop("labels").to("cuda")
    moved = {
        name: each.to("cuda") if torch.is_tensor(each) else each for name, each in batch.items()
    }
    count = torch.tensor(float((labels[:, 1:] != -100).sum()), device="cuda")
    model.train()

    def compute() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            outputs = model(**moved, use_cache=False)
        outputs.logits = outputs.logits.float()
        token_loss(outputs, labels, count).backward()
        model.zero_grad()

    layers = [each for each in model.modules() if type(each).__name__.endswith("DecoderLayer")]
    return _on_fake(fake, compute, layers) if fake else _on_card(compute, layers)


def _on_fake(fake: Fake, compute: Any, layers: list[Any]) -> Profile:
    marks: list[int] = []
    hooks = [
        layers[0].register_forward_pre_hook(lambda *_: marks.append(fake.launched)),
        layers[-1].register_forward_hook(lambda *_: marks.append(fake.launched)),
    ]
    with fake.watch() as seen:
        compute()
    for hook in hooks:
        hook.remove()
    inside = [sync for sync in seen.syncs if marks[0] < sync.launch <= marks[1]]
    backward = [sync for sync in seen.syncs if sync.launch > marks[1] and "backward" in sync.where]
    places = sorted({sync.where for sync in [*inside, *backward]})
    return Profile(seen.count, len(inside) + len(backward), {"waits_at": places[:5]})


def _on_card(compute: Any, layers: list[Any]) -> Profile:
    from torch.profiler import ProfilerActivity, profile, record_function

    open_marks: list[Any] = []

    def enter(*_: Any) -> None:
        open_marks.append(record_function("tuner_layers"))
        open_marks[-1].__enter__()

    hooks = [
        layers[0].register_forward_pre_hook(enter),
        layers[-1].register_forward_hook(lambda *_: open_marks.pop().__exit__(None, None, None)),
    ]
    compute()
    torch.cuda.synchronize()
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as taken:
        compute()
        torch.cuda.synchronize()
    wall = time.perf_counter() - started
    for hook in hooks:
        hook.remove()
    events = list(taken.events())
    spans = [each.time_range for each in events if each.name == "tuner_layers"]
    waits = [
        each
        for each in events
        if each.name in _WAITS
        and any(span.start <= each.time_range.start <= span.end for span in spans)
    ]
    busy = sum(each.self_device_time_total for each in taken.key_averages()) / 1e6
    return Profile(
        sum(each.name in _LAUNCHES for each in events),
        len(waits),
        {"profiled_seconds": wall, "idle_share": max(0.0, 1 - busy / wall)},
    )
