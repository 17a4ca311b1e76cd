"""CUDA kernels that a build of torch without CUDA lacks, in plain arithmetic on main memory.

`KERNELS` maps the name of an operator, without overload where all overloads are meant, to a
function with the operator's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def _sequences(cu_q: Tensor, cu_k: Tensor | None) -> Iterator[tuple[slice, slice]]:
    ends_q = cu_q.tolist()
    ends_k = ends_q if cu_k is None else cu_k.tolist()
    assert len(ends_q) == len(ends_k), "cu_seq_q and cu_seq_k name different numbers of rows"
    for a, b, c, d in zip(ends_q, ends_q[1:], ends_k, ends_k[1:], strict=False):
        yield slice(a, b), slice(c, d)


def _scores(
    query: Tensor, key: Tensor, causal: bool, scale: float, window: Sequence[int] | None
) -> Tensor:
    """Return (heads, queries, keys) of one row; aligned bottom-right, as FlashAttention does."""
    groups = query.shape[1] // key.shape[1]
    keys = key.float().repeat_interleave(groups, 1)
    made = query.float().transpose(0, 1) @ keys.permute(1, 2, 0) * scale
    count, seen = made.shape[1:]
    left, right = window or (-1, -1)
    right = 0 if causal else right
    place = torch.arange(count)[:, None] + (seen - count)
    other = torch.arange(seen)[None]
    keep = torch.ones(count, seen, dtype=torch.bool)
    if right >= 0:
        keep &= other <= place + right
    if left >= 0:
        keep &= other >= place - left
    return made.masked_fill(~keep, float("-inf"))


def _check(query: Tensor, key: Tensor, value: Tensor, *ends: Tensor | None) -> None:
    types = {query.dtype, key.dtype, value.dtype}
    if len(types) > 1 or types - {torch.float16, torch.bfloat16}:
        raise RuntimeError(f"FlashAttention only supports fp16 and bf16, not {types}")
    if query.shape[-1] % 8 or query.shape[-1] > 256:
        raise RuntimeError("FlashAttention: head_dim must be a multiple of 8, 256 at most")
    if any(end is not None and end.dtype != torch.int32 for end in ends):
        raise RuntimeError("FlashAttention: cu_seqlens must be int32")


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_q: Tensor,
    cu_k: Tensor | None,
    max_q: int,
    max_k: int,
    causal: bool = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    *further: Any,
    **named: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of rows of different lengths; query (tokens, heads, head_dim)."""
    _check(query, key, value, cu_q, cu_k)
    groups = query.shape[1] // key.shape[1]
    results, sums = torch.zeros_like(query), []
    for mine, theirs in _sequences(cu_q, cu_k):
        scores = _scores(query[mine], key[theirs], causal, scale or query.shape[-1] ** -0.5, window)
        sums.append(scores.logsumexp(-1))
        weights = (scores - sums[-1][..., None]).exp().nan_to_num(0.0)
        values = value[theirs].float().repeat_interleave(groups, 1).transpose(0, 1)
        results[mine] = (weights @ values).transpose(0, 1).to(query.dtype)
    return results, torch.cat(sums, 1), torch.zeros(2, dtype=torch.uint64)


def varlen_backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    causal: bool,
    rng: Tensor,
    scale: float | None = None,
    window: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the given results and normalisers, as the kernel: they may be merged ones."""
    groups, scale = query.shape[1] // key.shape[1], scale or query.shape[-1] ** -0.5
    dq, dk, dv = (torch.zeros(part.shape) for part in (query, key, value))
    for mine, theirs in _sequences(cu_q, cu_k):
        scores = _scores(query[mine], key[theirs], causal, scale, window)
        weights = (scores - sums[:, mine, None]).exp().nan_to_num(0.0)
        dy = dout[mine].float().transpose(0, 1)
        keys, values = (
            part[theirs].float().repeat_interleave(groups, 1).transpose(0, 1)
            for part in (key, value)
        )
        mean = (dout[mine].float() * out[mine].float()).sum(-1).T[..., None]
        dscores = weights * (dy @ values.mT - mean) * scale
        dq[mine] = (dscores @ keys).transpose(0, 1)
        rows = query[mine].float().transpose(0, 1)
        for total, part in ((dk, dscores.mT @ rows), (dv, weights.mT @ dy)):
            grouped = part.unflatten(0, (-1, groups)).sum(1)
            total[theirs] += grouped.transpose(0, 1)
    return dq.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype)


def rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float | None
) -> tuple[Tensor, Tensor]:
    """`F.rms_norm` over the last dimension, rounded once; and the factor of each row."""
    assert len(shape) == 1
    exact = x.float()
    rstd = (exact.square().mean(-1, keepdim=True) + (eps or torch.finfo(x.dtype).eps)).rsqrt()
    made = exact * rstd if weight is None else exact * rstd * weight.float()
    return made.to(x.dtype), rstd


def rms_norm_backward(
    dy: Tensor,
    x: Tensor,
    shape: Sequence[int],
    rstd: Tensor,
    weight: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of `F.rms_norm` over the last dimension."""
    assert len(shape) == 1
    normed = x.float() * rstd.float()
    scaled = dy.float() if weight is None else dy.float() * weight.float()
    dx = rstd.float() * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    dw = (dy.float() * normed).flatten(0, -2).sum(0)
    return dx.to(x.dtype), dw if weight is None else dw.to(weight.dtype)


def wide_product(name: str, *args: Any, **kwargs: Any) -> Tensor:
    """Matrix products whose result has a wider type: mm, bmm, addmm with `out_dtype`."""
    out = kwargs.pop("out", None)
    *parts, dtype = args
    operator = getattr(torch, name)
    made: Tensor = operator(*(part.to(dtype) for part in parts), **kwargs)
    if out is None:
        return made
    out.copy_(made)
    return out  # type: ignore[no-any-return]


def lstm_cell(
    x: Tensor, hidden: Tensor, cell: Tensor, x_bias: Tensor | None, hidden_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of an LSTM; the workspace has the four gates."""
    gates = x + hidden
    for bias in (x_bias, hidden_bias):
        gates = gates if bias is None else gates + bias
    i, f, g, o = gates.chunk(4, -1)
    workspace = torch.cat([i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()], -1)
    i, f, g, o = workspace.chunk(4, -1)
    state = f * cell + i * g
    return o * state.tanh(), state, workspace


def lstm_cell_backward(
    dh: Tensor | None,
    dc: Tensor | None,
    before: Tensor,
    after: Tensor,
    workspace: Tensor,
    has_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gates, of the cell before, and of the bias."""
    i, f, g, o = workspace.chunk(4, -1)
    dh = torch.zeros_like(after) if dh is None else dh
    dc = torch.zeros_like(after) if dc is None else dc
    bent = after.tanh()
    total = dc + dh * o * (1 - bent * bent)
    gates = torch.cat(
        [
            total * g * i * (1 - i),
            total * before * f * (1 - f),
            total * i * (1 - g * g),
            dh * bent * o * (1 - o),
        ],
        -1,
    )
    return gates, total * f, gates.sum(0) if has_bias else gates.new_empty(0)


def histc(values: Tensor, bins: int = 100, *range: float, **named: float) -> Tensor:
    """Counts of values, which may be whole numbers."""
    return torch.histc(values.float(), bins, *range, **named).to(values.dtype)


def _wide(name: str) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: wide_product(name, *args, **kwargs)


KERNELS: dict[str, Callable[..., Any]] = {
    "torch_attn._varlen_attn": varlen,
    "torch_attn._varlen_attn_backward": varlen_backward,
    "fake_gpu.rms_norm": rms_norm,
    "fake_gpu.rms_norm_backward": rms_norm_backward,
    "aten.histc": histc,
    "aten._thnn_fused_lstm_cell": lstm_cell,
    "aten._thnn_fused_lstm_cell_backward_impl": lstm_cell_backward,
    **{f"aten.{name}.dtype": _wide(name) for name in ("mm", "bmm", "addmm", "baddbmm")},
    **{f"aten.{name}.dtype_out": _wide(name) for name in ("mm", "bmm", "addmm", "baddbmm")},
}
