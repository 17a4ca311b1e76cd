"""Attention of packed rows on a GPU: torch's FlashAttention for rows of different lengths.

One kernel call takes all rows. Where all of them begin with the same keys (a shared prefix, virtual
tokens), a second call takes these once for all queries, and the two results are merged by the
logarithms of their softmax denominators (Juravsky et al. 2024, Hydragen). The kernel's backward
pass, given the merged result and its denominators, returns the gradients of the whole.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# A row that sees itself and what is before it, and queries that see all keys.
_CAUSAL, _ALL = (-1, 0), (-1, -1)
_MOST_SIZE = 256

Pair = tuple[torch.Tensor, torch.Tensor]
Lengths = tuple[int, int]


@dataclass(frozen=True)
class PackedRows:
    """The rows of a packed sequence.

    Attributes:
        ends: (rows + 1,), where they begin and end.
        lengths: the same as numbers of tokens.
        shared: how many tokens of the first row the other rows also begin with.
    """

    ends: torch.Tensor
    lengths: Sequence[int]
    shared: int = 0


@dataclass(frozen=True)
class _Rows:
    """Where rows of queries, and those of the keys that they see, begin and end.

    Attributes:
        ends: (rows + 1,) each.
        longest: of each.
    """

    ends: Pair
    longest: Lengths

    @classmethod
    def of_one(cls, queries: int, keys: int, like: torch.Tensor) -> _Rows:
        """Return a single row, without a copy to the GPU."""
        made = [
            torch.arange(0, size + 1, size, device=like.device, dtype=like.dtype)
            for size in (queries, keys)
        ]
        return cls((made[0], made[1]), (queries, keys))


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
            share keys without being told.
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
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedRows,
    before: Pair | None = None,
    scaling: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Compute causal attention within each row.

    Args:
        query: (1, heads, tokens, size); key and value: (1, key_value_heads, tokens, size).
        packed: where the rows are.
        before: keys and values that all rows see, (1, key_value_heads, virtual tokens, size).
        scaling: of the scores; None: 1 / sqrt(size).
        window: how many tokens a token sees, itself included; None: all before it.

    Returns:
        (1, tokens, heads, size).
    """
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    lengths, shared = packed.lengths, packed.shared
    ends, longest = packed.ends.to(torch.int32), max(lengths)
    rows = _Rows((ends, ends), (longest, longest))
    common: Pair | None = (k[:shared], v[:shared]) if shared else None
    if before is not None:
        first_k, first_v = (part[0].transpose(0, 1).to(k.dtype).contiguous() for part in before)
        common = first_k, first_v
    # The first row has the shared tokens of its own.
    alone = 1 if shared else 0
    if common is None:
        return _one_call(q, (k, v), rows, scaling, window)[None]
    count = len(common[0])
    if window is None or window >= count + longest:
        apply: Any = _Cascade.apply
        result: torch.Tensor = apply(q, k, v, *common, _Call(rows, sum(lengths[:alone]), scaling))
        return result[None]
    # A window that ends among the common keys is no case for two calls: each row gets a copy.
    copied_k, copied_v = (
        torch.cat([*_after(first, part.split(list(lengths)), alone)])
        for first, part in zip(common, (k, v), strict=True)
    )
    place = torch.arange(len(ends), device=ends.device, dtype=torch.int32)
    key_ends = ends + count * (place - alone).clamp(min=0)
    rows = _Rows((ends, key_ends), (longest, longest + count))
    return _one_call(q, (copied_k, copied_v), rows, scaling, window)[None]


def _after(first: torch.Tensor, rows: Sequence[torch.Tensor], alone: int) -> Iterator[torch.Tensor]:
    """Yield rows, `first` before each but the first `alone` ones."""
    for number, row in enumerate(rows):
        if number >= alone:
            yield first
        yield row


def _one_call(
    query: torch.Tensor, keys: Pair, rows: _Rows, scaling: float | None, window: int | None
) -> torch.Tensor:
    """Return (tokens, heads, size): a row's last query sees its last key, whatever their number."""
    from torch.nn.attention.varlen import varlen_attn

    result: Any = varlen_attn(
        query,
        *keys,
        *rows.ends,
        *rows.longest,
        scale=scaling,
        # A window of n tokens is the token and the n - 1 before it.
        window_size=_CAUSAL if window is None else (window - 1, 0),
        **further(_known(), query.shape[1] != keys[0].shape[1]),
    )
    return result  # type: ignore[no-any-return]


def forward_kernel(
    query: torch.Tensor, keys: Pair, rows: _Rows, causal: bool, scale: float | None
) -> tuple[torch.Tensor, ...]:
    """Return the kernel's result (queries, heads, size), the logarithms of its denominators (heads,
    queries), and the state of its random numbers, of which it draws none."""
    from torch.nn.attention import varlen  # noqa: F401  # registers the operator

    found: tuple[torch.Tensor, ...] = torch.ops.torch_attn._varlen_attn(
        query, *keys, *rows.ends, *rows.longest, causal, scale, list(_CAUSAL if causal else _ALL)
    )
    return found


def backward_kernel(
    gradient: torch.Tensor,
    inputs: tuple[torch.Tensor, ...],
    result: tuple[torch.Tensor, ...],
    rows: _Rows,
    causal: bool,
    scale: float | None,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of the inputs, query, key and value; `result` as of `forward_kernel`."""
    out, norms, state = result
    window = list(_CAUSAL if causal else _ALL)
    found: tuple[torch.Tensor, ...] = torch.ops.torch_attn._varlen_attn_backward(
        gradient, *inputs, out, norms, *rows.ends, *rows.longest, causal, state, scale, window
    )
    return found


@dataclass(frozen=True)
class _Call:
    """The rows, the first query that sees the common keys, and the scale of the scores."""

    rows: _Rows
    skip: int
    scale: float | None


class _Cascade(torch.autograd.Function):
    """Rows of q, k, v (tokens, heads, size), whose queries from `skip` on also see the common keys
    and values, (count, key_value_heads, size)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        common_k: torch.Tensor,
        common_v: torch.Tensor,
        call: _Call,
    ) -> torch.Tensor:
        rows, skip, scale = call.rows, call.skip, call.scale
        out, norms, state = forward_kernel(q, (k, v), rows, True, scale)
        whole = _Rows.of_one(len(q) - skip, len(common_k), rows.ends[0])
        also, also_norms, _ = forward_kernel(q[skip:], (common_k, common_v), whole, False, scale)
        own_norms = norms[:, skip:]
        merged = torch.logaddexp(own_norms, also_norms)
        share, also_share = ((part - merged).exp().T[..., None] for part in (own_norms, also_norms))
        late = (out[skip:] * share + also * also_share).to(out.dtype)
        out = torch.cat([out[:skip], late]) if skip else late
        norms = torch.cat([norms[:, :skip], merged], dim=1) if skip else merged
        ctx.save_for_backward(q, k, v, common_k, common_v, out, norms, state, *rows.ends)
        ctx.longest, ctx.skip, ctx.scale = rows.longest, skip, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, common_k, common_v, out, norms, state, *ends = ctx.saved_tensors
        rows, skip = _Rows((ends[0], ends[1]), ctx.longest), ctx.skip
        given = gradients[0].contiguous()
        dq, dk, dv = backward_kernel(given, (q, k, v), (out, norms, state), rows, True, ctx.scale)
        whole = _Rows.of_one(len(q) - skip, len(common_k), ends[0])
        late = (out[skip:], norms[:, skip:].contiguous(), state)
        inputs = (q[skip:], common_k, common_v)
        also, dcommon_k, dcommon_v = backward_kernel(
            given[skip:], inputs, late, whole, False, ctx.scale
        )
        dq[skip:] += also
        return dq, dk, dv, dcommon_k, dcommon_v, None
