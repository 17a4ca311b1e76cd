"""One micro-batch under a profiler: kernels launched, places where the CPU waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from tuner.tasks.sft import token_loss

if TYPE_CHECKING:
    from tests.gpu.fake import Fake

_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
_SPAN = "tuner_layers"
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass
class Profile:
    """What was seen.

    Attributes:
        launches: of the forward and the backward pass.
        waits: of the CPU for the GPU, between the first layer's beginning and the last one's end,
            and in the backward pass.
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

    def compute(span: Span) -> None:
        first, last = _layers(model)
        hooks = [
            first.register_forward_pre_hook(lambda *_: span.begin()),
            last.register_forward_hook(lambda *_: span.end()),
        ]
        with torch.autocast("cuda", torch.bfloat16):
            outputs = model(**moved, use_cache=False)
        for hook in hooks:
            hook.remove()
        outputs.logits = outputs.logits.float()
        loss = token_loss(outputs, labels, count)
        span.begin()
        loss.backward()
        span.end()
        model.zero_grad()

    return _on_fake(fake, compute) if fake else _on_card(compute)


class Span(Protocol):
    """Marks where nothing may wait."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


def _layers(model: Any) -> tuple[Any, Any]:
    """Return the first and the last layer of a decoder."""
    layers = [each for each in model.modules() if type(each).__name__.endswith("DecoderLayer")]
    return layers[0], layers[-1]


class _Launches:
    """Spans as numbers of kernels launched before."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.marks: list[int] = []

    def begin(self) -> None:
        self.marks.append(self.fake.launched)

    end = begin


def _on_fake(fake: Fake, compute: Callable[[Span], None]) -> Profile:
    span = _Launches(fake)
    with fake.watch() as seen:
        compute(span)
    first, last, start, end = span.marks
    inside = [
        sync for sync in seen.syncs if first <= sync.launch <= last or start < sync.launch <= end
    ]
    places = sorted({sync.where for sync in inside})
    return Profile(seen.count, len(inside), {"waits_at": places[:5]})


class _Recorded:
    """Spans as events of the profiler."""

    def begin(self) -> None:
        self.open = torch.profiler.record_function(_SPAN)
        self.open.__enter__()

    def end(self) -> None:
        self.open.__exit__(None, None, None)


def _on_card(compute: Callable[[Span], None]) -> Profile:
    from torch.profiler import ProfilerActivity, profile

    compute(_Recorded())
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as taken:
        started = time.perf_counter()
        compute(_Recorded())
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    events = list(taken.events())
    spans = [each.time_range for each in events if each.name == _SPAN]
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
