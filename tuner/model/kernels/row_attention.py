"""Causal attention of packed rows on a CPU, as one autograd function.

Forward is PyTorch's fused kernel, row by row. Backward is FlashAttention-2's (Dao 2023, algorithm
2) by matrix products in float32, over blocks of queries and the keys that they see. PyTorch's own
backward kernel takes up to twice as long in float32 and up to three times in bfloat16, where its
gradients are also ten times less exact; heads that share keys are one product here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from tuner.model.kernels.cross_entropy import exp_

# Queries per block: small ones waste less work on masked keys, large ones make larger products.
_QUERIES = 64
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fits(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Return whether gradients are wanted and the kernel supports (1, heads, tokens, size)."""
    parts = (query, key, value)
    wanted = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    plain = all(part.device.type == "cpu" and part.dtype in _DTYPES for part in parts)
    alike = len({(part.dtype, part.shape[-1]) for part in parts}) == 1
    return wanted and plain and alike and all(part.stride(-1) == 1 for part in parts)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    shared: int,
    scaling: float | None,
) -> torch.Tensor:
    """Compute causal attention within each row.

    Args:
        query: (1, heads, tokens, size); key and value: (1, key_value_heads, tokens, size).
        lengths: tokens of each row.
        shared: how many tokens of the first row the other rows also begin with.
        scaling: of the scores; None: 1 / sqrt(size).

    Returns:
        (1, tokens, heads, size).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    apply: Any = _Rows.apply
    result: torch.Tensor = apply(query, key, value, lengths, shared, scale)
    return result


def rows_of(packed: torch.Tensor, lengths: list[int], shared: int) -> list[torch.Tensor]:
    """Return (1, heads, tokens, size) of each row, with the tokens it shares with the first."""
    rows = list(packed.split(lengths, dim=2))
    if shared:
        first = rows[0][:, :, :shared]
        # Copy the first row, too: a view of it would keep the whole packed tensor.
        rows = [rows[0].clone(), *(torch.cat([first, row], dim=2) for row in rows[1:])]
    return rows


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: list[int],
        shared: int,
        scale: float,
    ) -> torch.Tensor:
        heads, tokens, size = query.shape[1:]
        groups = heads // key.shape[1]
        result = query.new_empty(1, tokens, heads, size)
        # The logarithm of each query's softmax denominator.
        norms = torch.empty(heads, tokens)
        start = 0
        parts = (rows_of(part, lengths, shared) for part in (query, key, value))
        for length, q, k, v in zip(lengths, *parts, strict=True):
            if groups > 1:
                k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            row, norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, True, scale=scale
            )
            result[0, start : start + length] = row[0, :, -length:].transpose(0, 1)
            norms[:, start : start + length] = norm[0, :, -length:]
            start += length
        ctx.save_for_backward(query, key, value, result, norms)
        ctx.lengths, ctx.shared, ctx.scale = lengths, shared, scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, result, norms = ctx.saved_tensors
        # (heads, tokens, size) each.
        dresult, result = (part[0].transpose(0, 1) for part in (gradients[0], result))
        dquery = torch.empty_like(query)
        # Shared tokens have gradients from all rows: sum first, then round.
        dkey, dvalue = (torch.zeros_like(part, dtype=torch.float32) for part in (key, value))
        start = 0
        for number, length in enumerate(ctx.lengths):
            before = ctx.shared if number else 0
            end = start + length
            k, v = (_with_first(part[0], start, end, before) for part in (key, value))
            mine = [part[:, start:end] for part in (query[0], dresult, result, norms)]
            dq, dk, dv = _row_backward(ctx.scale, k, v, *mine)
            dquery[0, :, start:end] = dq
            for into, given in ((dkey[0], dk), (dvalue[0], dv)):
                into[:, start:end] += given[:, before:]
                into[:, :before] += given[:, :before]
            start = end
        return dquery, dkey.to(key.dtype), dvalue.to(key.dtype), None, None, None


def _with_first(part: torch.Tensor, start: int, end: int, before: int) -> torch.Tensor:
    """Return keys or values that a row sees, (key_value_heads, tokens, size) in float32."""
    row = part[:, start:end]
    return (torch.cat([part[:, :before], row], dim=1) if before else row).float().contiguous()


def _row_backward(
    scale: float,
    key: torch.Tensor,
    value: torch.Tensor,
    query: torch.Tensor,
    dresult: torch.Tensor,
    result: torch.Tensor,
    norms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of one row's queries, keys and values, in float32.

    Args:
        scale: of the scores.
        key: (key_value_heads, seen, size), like value.
        query: (heads, tokens, size), like dresult and result: the last of the seen tokens.
        norms: (heads, tokens).
    """
    shared, seen, size = key.shape
    heads, tokens = norms.shape
    query, dresult = query.float(), dresult.float()
    # Softmax's backward subtracts dP . P, which equals this sum over the head dimension.
    inner = (dresult * result.float()).sum(-1)
    dquery = torch.empty(heads, tokens, size)
    dkey, dvalue = torch.zeros_like(key), torch.zeros_like(value)
    for first in range(0, tokens, _QUERIES):
        last = min(first + _QUERIES, tokens)
        count, until = last - first, seen - tokens + last
        # Heads that share keys are stacked.
        q, dy, norm, dot = (
            part[:, first:last].reshape(shared, heads // shared * count, -1)
            for part in (query, dresult, norms, inner)
        )
        k, v = key[:, :until], value[:, :until]
        share = exp_(torch.baddbmm(norm, q, k.mT, beta=-1, alpha=scale))
        share.view(heads, count, until)[:, :, until - count :].tril_()
        dvalue[:, :until].baddbmm_(share.mT, dy)
        dscore = torch.baddbmm(dot, dy, v.mT, beta=-1).mul_(share)
        dquery[:, first:last] = torch.bmm(dscore, k).view(heads, count, size)
        dkey[:, :until].baddbmm_(dscore.mT, q, alpha=scale)
    return dquery.mul_(scale), dkey, dvalue
