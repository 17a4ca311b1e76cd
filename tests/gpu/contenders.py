"""One model and its rows, trained by tuner and by what others run: the seconds of each step."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from tuner.data.tokens.example import IGNORED
from tuner.tasks.watch import HeldOut

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE = 1e-4


@dataclass
class Ran:
    """What training a few steps gave.

    Attributes:
        losses, seconds, tokens: of each step.
        allocated, reserved: most bytes of the GPU.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    allocated: int = 0
    reserved: int = 0

    def speed(self, warm: int) -> float:
        """Return real tokens per second, of the steps after the first `warm`."""
        pairs = list(zip(self.tokens, self.seconds, strict=True))
        pairs = pairs[min(warm, len(pairs) - 1) :]
        return statistics.median(tokens / seconds for tokens, seconds in pairs)


@contextlib.contextmanager
def peaks(ran: Ran) -> Iterator[None]:
    """Note the most bytes of the GPU until the end of the block."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.synchronize()
    ran.allocated = torch.cuda.max_memory_allocated()
    ran.reserved = torch.cuda.max_memory_reserved()


def ours(plan: Any, model: Any) -> tuple[Ran, dict[str, torch.Tensor], Any]:
    """Train by tuner's own road; also return the trained tensors at the start, and the model."""
    from tuner.console.console import Console
    from tuner.machine.signals import StopRequest
    from tuner.record.run_folder import RunFolder
    from tuner.record.run_json import read_metrics
    from tuner.run import build, spine
    from tuner.tasks.trained import trainable

    ran = Ran()
    with peaks(ran):
        trained = build.start(plan, model)
        start = {}
        if plan.method.adapter:
            start = {name: each.detach().cpu().clone() for name, each in trainable(trained.model)}
        console = Console(quiet=True)
        with StopRequest() as stop, RunFolder.open(plan.output, resume=False) as folder:
            spine.train(plan, trained, folder, stop, console, HeldOut(), None)
    for line in read_metrics(Path(plan.output)):
        ran.losses.append(line["loss"])
        ran.seconds.append(line["seconds"])
        ran.tokens.append(line["tokens"])
    return ran, start, trained


def with_lora(model: Any, start: dict[str, torch.Tensor], rank: int = 16) -> Any:
    """Put peft's LoRA on a model, starting from given tensors."""
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=TARGETS)
    made = get_peft_model(model, config)
    own = dict(made.named_parameters())
    with torch.no_grad():
        for name, tensor in start.items():
            own[name].copy_(tensor)
    return made


def recompute(model: Any) -> None:
    """Have a model compute its layers again in the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


def plain_batch(rows: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Rows padded on the right, as most loops do."""
    longest = max(len(row.input_ids) for row in rows)
    ids, labels, mask = [], [], []
    for row in rows:
        fill = longest - len(row.input_ids)
        ids.append([*row.input_ids, *[0] * fill])
        wanted = zip(row.input_ids, row.supervised, strict=True)
        labels.append([token if seen else IGNORED for token, seen in wanted] + [IGNORED] * fill)
        mask.append([1] * len(row.input_ids) + [0] * fill)
    batch = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    if min(map(min, mask)) == 0:
        batch["attention_mask"] = torch.tensor(mask)
    return batch


def packed_batch(rows: Sequence[Any]) -> dict[str, Any]:
    """Rows in one sequence, with the boundaries that FlashAttention's varlen takes."""
    lengths = [len(row.input_ids) for row in rows]
    labels: list[int] = []
    for row in rows:
        wanted = zip(row.input_ids, row.supervised, strict=True)
        labels += [token if seen else IGNORED for token, seen in wanted]
        labels[-len(row.input_ids)] = IGNORED
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row.input_ids]]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([[n for each in lengths for n in range(each)]]),
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def loop(model: Any, batches: Sequence[dict[str, Any]], tokens: Sequence[int]) -> Ran:
    """A training loop as users write it: autocast, clip, AdamW."""
    ran = Ran(tokens=list(tokens))
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    model.train()
    with peaks(ran):
        for batch in batches:
            torch.cuda.synchronize()
            started = time.perf_counter()
            moved = {
                name: each.to("cuda", non_blocking=True) if torch.is_tensor(each) else each
                for name, each in batch.items()
            }
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(**moved, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ran.losses.append(float(loss))
            torch.cuda.synchronize()
            ran.seconds.append(time.perf_counter() - started)
    return ran


def varlen(
    module: Any, query: Any, key: Any, value: Any, mask: Any, **given: Any
) -> tuple[torch.Tensor, None]:
    """FlashAttention for packed rows as a peer registers it, without tuner."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    more: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {}
    if "is_causal" in known:
        more = {"is_causal": True}
    if "enable_gqa" in known:
        more["enable_gqa"] = True
    dtype = torch.get_autocast_dtype("cuda")
    parts = [part[0].transpose(0, 1).to(dtype) for part in (query, key, value)]
    ends, longest = given["cu_seq_lens_q"], given["max_length_q"]
    result: Any = varlen_attn(*parts, ends, ends, longest, longest, **more)
    return result[None], None


def register_varlen() -> str:
    """Make `varlen` known to transformers, and return its name there."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("peer_varlen", varlen)
    AttentionMaskInterface.register("peer_varlen", lambda *args, **kwargs: None)
    return "peer_varlen"


@contextlib.contextmanager
def liger(model: Any, wanted: bool) -> Iterator[str]:
    """Put Liger's kernels into a model; yield "with Liger", or why without."""
    from transformers.models.llama import modeling_llama

    if not wanted:
        yield "without Liger: it needs a real GPU"
        return
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_llama
    except ImportError:
        yield "without Liger: not installed"
        return
    before = dict(vars(modeling_llama))
    apply_liger_kernel_to_llama(model=model)
    try:
        yield "with Liger"
    finally:
        # It changes the module of transformers, too.
        vars(modeling_llama).update(before)
