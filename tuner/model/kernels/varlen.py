"""Attention of packed rows on a GPU: torch's FlashAttention for rows of different lengths.

One kernel call takes all rows. Virtual tokens, which every row begins with, are not copied to each:
a second call takes their keys for all queries at once, and the two results are merged by their
softmax denominators (Juravsky et al. 2024). The kernel's backward pass, given the merged result and
denominators, returns the gradients of the whole.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# A row that sees itself and what is before it, and queries that see all keys.
_CAUSAL, _ALL = (-1, 0), (-1, -1)
_MOST_SIZE = 256

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class PackedRows:
    """The rows of a packed sequence.

    Attributes:
        lengths: tokens of each.
        ends: (rows + 1,), int32, where they begin and end among queries, and among keys.
        shared: how many tokens of the first row the others also begin with, as keys only.
    """

    lengths: Sequence[int]
    ends: Pair
    shared: int = 0

    @property
    def longest(self) -> tuple[int, int]:
        """The most queries, and keys, of a row."""
        first, *others = self.lengths
        return max(self.lengths), max([first, *(self.shared + length for length in others)])

    @classmethod
    def of_one(cls, queries: int, keys: int, device: torch.device) -> PackedRows:
        """Return a single row of as many queries, which sees `keys` keys; made on the device."""
        ends = [
            torch.arange(0, size + 1, size, device=device, dtype=torch.int32)
            for size in (queries, keys)
        ]
        return cls([queries], (ends[0], ends[1]))


def in_autocast_type(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the parts in the type that autocast computes in, if it is on.

    Where the base itself is trained, RoPE makes float32 of queries and keys; SDPA would cast them.
    """
    kind = parts[0].device.type
    if not torch.is_autocast_enabled(kind):
        return parts
    return tuple(part.to(torch.get_autocast_dtype(kind)) for part in parts)


def fits(query: torch.Tensor) -> bool:
    """Return whether the kernel supports these: (1, heads, tokens, size) in half precision."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    present = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    size = query.shape[-1] % 8 == 0 and query.shape[-1] <= _MOST_SIZE
    return present and size and torch.cuda.get_device_capability(query.device) >= (8, 0)


def further(known: Collection[str], grouped: bool) -> dict[str, Any]:
    """Return the arguments of `varlen_attn` that not every version of torch has.

    Args:
        known: the parameters of the installed version; before 2.12 its kernel takes heads that
            share keys without the argument.
        grouped: whether heads share keys.
    """
    # Keys are not split, so that the other rows do not decide how a row's sums are rounded.
    wanted: dict[str, Any] = {"num_splits": 1}
    if grouped:
        wanted["enable_gqa"] = True
    return {name: value for name, value in wanted.items() if name in known}


@cache
def _known() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def attend(
    parts: Sequence[torch.Tensor],
    rows: PackedRows,
    scaling: float | None = None,
    window: int | None = None,
    before: Pair | None = None,
) -> torch.Tensor:
    """Compute causal attention within each row.

    The kernel aligns the last query of a row with its last key, so that shared tokens need to be
    repeated among the keys only.

    Args:
        parts: query (1, heads, tokens, size); key and value (1, key_value_heads, tokens, size).
        rows: where they are.
        scaling: of the scores; None: 1 / sqrt(size).
        window: how many tokens a token sees, itself included; None: all before it.
        before: keys and values that all rows see, (1, key_value_heads, virtual tokens, size), in
            place of shared tokens and of a window.

    Returns:
        (1, tokens, heads, size).
    """
    # Not part[0], whose backward pass fills and copies a whole tensor.
    query, key, value = (part.squeeze(0).transpose(0, 1) for part in parts)
    result: Any
    if before is not None:
        common = [part.squeeze(0).transpose(0, 1).to(key.dtype) for part in before]
        cascade: Any = _Cascade.apply
        result = cascade(query, key, value, *common, (rows, scaling))
        return result[None]  # type: ignore[no-any-return]
    from torch.nn.attention.varlen import varlen_attn

    if rows.shared:
        repeat: Any = _Repeated.apply
        key, value = (repeat(part, rows.lengths, rows.shared) for part in (key, value))
    result = varlen_attn(
        query,
        key,
        value,
        *rows.ends,
        *rows.longest,
        scale=scaling,
        # A window of n tokens is the token and the n - 1 before it.
        window_size=_CAUSAL if window is None else (window - 1, 0),
        **further(_known(), query.shape[1] != key.shape[1]),
    )
    return result[None]  # type: ignore[no-any-return]


class _Repeated(torch.autograd.Function):
    """The shared tokens before every row; their gradients are added up in float32, then rounded."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, lengths: list[int], shared: int) -> torch.Tensor:
        """Map (tokens, heads, size) to (tokens + (rows - 1) * shared, heads, size)."""
        ctx.lengths, ctx.shared = lengths, shared
        first, *others = part.split(lengths)
        return torch.cat([first, *(each for row in others for each in (first[:shared], row))])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        first, *others = ctx.lengths
        parts = gradients[0].split([first, *(n for row in others for n in (ctx.shared, row))])
        own = torch.cat([parts[0], *parts[2::2]])
        repeated = torch.stack([parts[0][: ctx.shared], *parts[1::2]])
        wide = torch.promote_types(torch.float32, own.dtype)
        own[: ctx.shared] = repeated.sum(0, dtype=wide)
        return own, None, None


class _Cascade(torch.autograd.Function):
    """Rows of q, k, v (tokens, heads, size), all of which also see the common keys and values,
    (count, key_value_heads, size)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        common_k: torch.Tensor,
        common_v: torch.Tensor,
        call: tuple[PackedRows, float | None],
    ) -> torch.Tensor:
        """Take the rows and the scale of the scores as one argument."""
        # Registers the operators.
        from torch.nn.attention import varlen  # noqa: F401

        kernel = torch.ops.torch_attn._varlen_attn
        rows, scale = ctx.rows, ctx.scale = call
        ctx.all = PackedRows.of_one(len(q), len(common_k), q.device)
        own, norms, state = kernel(q, k, v, *rows.ends, *rows.longest, True, scale, list(_CAUSAL))
        also, also_norms, _ = kernel(
            q, common_k, common_v, *ctx.all.ends, *ctx.all.longest, False, scale, list(_ALL)
        )
        merged = torch.logaddexp(norms, also_norms)
        share, also_share = ((part - merged).exp().T[..., None] for part in (norms, also_norms))
        out: torch.Tensor = (own * share + also * also_share).to(own.dtype)
        ctx.save_for_backward(q, k, v, common_k, common_v, out, merged, state)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, common_k, common_v, out, norms, state = ctx.saved_tensors
        kernel, given = torch.ops.torch_attn._varlen_attn_backward, gradients[0].contiguous()

        def gradients_of(keys: Pair, rows: PackedRows, causal: bool) -> tuple[torch.Tensor, ...]:
            window = list(_CAUSAL if causal else _ALL)
            places = (*rows.ends, *rows.longest, causal, state, ctx.scale, window)
            found: tuple[torch.Tensor, ...] = kernel(given, q, *keys, out, norms, *places)
            return found

        dq, dk, dv = gradients_of((k, v), ctx.rows, True)
        also, dcommon_k, dcommon_v = gradients_of((common_k, common_v), ctx.all, False)
        return dq + also, dk, dv, dcommon_k, dcommon_v, None
