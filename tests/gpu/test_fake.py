"""The fake GPU itself: what it computes, counts and refuses; a run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.gpu.fake import Fake
from tests.gpu.forked import on_fake


@on_fake(devices=2, memory=1 << 20)
def test_what_it_counts_and_refuses(gpu: Fake) -> None:
    weight = torch.randn(8, 16, device="cuda", requires_grad=True)
    with gpu.watch() as seen:
        (weight @ weight.T).sum().backward()
    assert seen.launches["aten.mm.default"] == 3
    assert seen.syncs == []
    assert weight.grad is not None
    assert weight.grad.device == torch.device("cuda:0")
    expected = torch.ones(8, 8) @ weight.detach().cpu() * 2
    assert torch.allclose(weight.grad.cpu(), expected, atol=1e-5)
    with gpu.watch() as seen:
        weight.grad.sum().item()
        weight.detach()[weight.detach() > 0].numel()
        torch.tensor([1.0]).to("cuda")
        torch.tensor([1.0]).to("cuda", non_blocking=True)
    assert [sync.kind for sync in seen.syncs] == ["read", "read", "write"]

    refused: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (RuntimeError, "cuda:0 and cuda:1", lambda: weight + torch.ones(16, device="cuda:1")),
        (RuntimeError, "cpu and cuda:0", lambda: torch.ones(8) @ weight),
        (TypeError, "numpy", lambda: weight.detach().numpy()),
        (RuntimeError, "ordinal", lambda: torch.ones(1, device="cuda:2")),
        (torch.OutOfMemoryError, "out of memory", lambda: torch.empty(1 << 20, device="cuda")),
    ]
    for kind, text, call in refused:
        with pytest.raises(kind, match=text):
            call()
    assert torch.cuda.device_count() == 2


@on_fake()
def test_bytes_live_as_long_as_a_tensor_that_shows_them(gpu: Fake) -> None:
    before = gpu.live()
    with gpu.watch() as seen:
        big = torch.zeros(1 << 20, device="cuda")
        part = big[:10].view(2, 5)
        del big
        assert gpu.live() - before == 4 << 20
        again = part.clone()
        del part
    assert gpu.live() - before == 512
    assert seen.extra == (4 << 20) + 512
    assert torch.cuda.max_memory_allocated() >= seen.peak
    assert torch.cuda.memory_reserved() > torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == torch.cuda.memory_allocated()
    assert again.shape == (2, 5)


@on_fake()
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (2, 1)])
def test_attention_of_rows_of_different_lengths(heads: int, groups: int) -> None:
    """The emulated kernel and its gradients against SDPA, row by row."""
    from torch.nn.attention.varlen import varlen_attn

    parts = [
        torch.randn(11, count, 16).bfloat16().requires_grad_()
        for count in (heads, heads // groups, heads // groups)
    ]
    copies = [part.detach().cuda().requires_grad_() for part in parts]
    ends = torch.tensor([0, 4, 11], dtype=torch.int32).cuda()
    made: Any = varlen_attn(*copies, ends, ends, 7, 7, window_size=(-1, 0), enable_gqa=groups > 1)
    rows = []
    for row in (slice(0, 4), slice(4, 11)):
        query, key, value = (part[row].transpose(0, 1)[None] for part in parts)
        rows.append(
            functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=groups > 1
            )
        )
    expected = torch.cat(rows, 2)[0].transpose(0, 1)
    assert torch.allclose(made.detach().cpu().float(), expected.detach().float(), atol=0.02)
    dy = torch.randn(expected.shape).bfloat16()
    expected.backward(dy)
    made.backward(dy.cuda())
    for copy, part in zip(copies, parts, strict=True):
        assert copy.grad is not None
        assert part.grad is not None
        assert torch.allclose(copy.grad.cpu().float(), part.grad.float(), atol=0.04)


@on_fake()
def test_a_run_trains_scores_and_proves_its_artefacts(gpu: Fake, tmp_path: Path) -> None:
    from tests.gpu import runs

    recipe = runs.write(tmp_path, method={"name": "lora", "r": 4})
    made = runs.plan(recipe, "lora")
    assert (made.device, made.dtype, made.packing) == ("cuda", "bfloat16", True)
    with gpu.watch() as seen:
        record = runs.train(recipe, "lora")
    assert record["status"] == "done"
    assert [each["kind"] for each in record["artefacts"]] == ["adapter", "merged"]
    assert seen.launches["torch_attn._varlen_attn_backward.default"] > 0
