"""Attention that keeps packed rows apart, on transformers' own extension points.

A micro-batch of rows is packed into one sequence without padding. The linear layers run over all
its tokens at once; attention runs per row, each with PyTorch's fused causal kernel (trained on a
CPU as in `row_attention`, on a GPU all rows in one call as in `varlen`), so on a CPU a row's
attention is bit for bit the same as without other rows, and no mask is ever built. In the linear
layers other rows' tokens are more rows of a matrix product: their content changes no bit of a row's
result; their number may select another kernel, with another summation order.
Boundaries come from `cu_seq_lens_q`, the argument that transformers passes through to
FlashAttention's varlen kernels, and as numbers from `row_lengths`: to read them from a GPU would
let the processor wait for it in every layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tuner.model.kernels import row_attention, varlen

ROWS = "tuner_rows"
# What transformers' own function does more than SDPA.
_MORE = ("position_bias", "cache", "softcap")


def register() -> None:
    """Make `attn_implementation="tuner_rows"` known to transformers, and have its own "sdpa" keep
    no scores where a GPU need not. Idempotent."""
    AttentionInterface.register(ROWS, _attend)
    AttentionMaskInterface.register(ROWS, _mask)
    AttentionInterface.register("sdpa", sdpa)


def sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute transformers' "sdpa", with keys repeated for the heads that share them if need be.

    On a GPU transformers leaves the sharing to SDPA where there is no mask. Of its kernels only
    FlashAttention can: in float32, and before compute capability 8.0, it would be the plain one,
    with heads x tokens x tokens scores in memory. Repeated keys are heads x tokens. The scores of a
    single token are few.
    """
    shared_by = query.shape[1] // key.shape[1]
    plain = attention_mask is None and all(kwargs.get(each) is None for each in _MORE)
    if plain and shared_by > 1 and query.shape[2] > 1 and not _flash(query):
        key, value = (part.repeat_interleave(shared_by, 1) for part in (key, value))
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else bool(causal)
        result = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=causal, scale=scaling
        )
        return result.transpose(1, 2).contiguous(), None
    result, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return result, None


def _flash(query: torch.Tensor) -> bool:
    """Return whether SDPA has FlashAttention for queries without a mask; on a CPU, yes."""
    if not query.is_cuda:
        return True
    half = query.dtype in (torch.bfloat16, torch.float16)
    return half and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention within each row of a packed sequence.

    Args:
        query: (1, heads, tokens, head_dim); key and value: (1, key_value_heads, tokens, head_dim).
        attention_mask: None when packed.

    Further arguments come from the model call: `cu_seq_lens_q` (rows + 1,), the boundaries, and
    `row_lengths`, the tokens between them; `row_masks`, for each row None (causal) or a (tokens,
    tokens) matrix of who sees whom; `row_prefix`, for each layer keys and values (1,
    key_value_heads, virtual tokens, head_dim) that come before every row and that all its tokens
    see; and `shared_prefix`, how many tokens of the first row the others also begin with. These
    attend as if each row had them, so that a row's result does not depend on sharing;
    `cu_seq_lens_k` then has the boundaries with them.

    Returns:
        (1, tokens, heads, head_dim), and None for the weights.
    """
    boundaries = kwargs.get("cu_seq_lens_q")
    if boundaries is None:
        return sdpa(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    for unsupported in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(unsupported) is not None:
            raise NotImplementedError(f"packed attention has no {unsupported}")
    window = kwargs.get("sliding_window")
    if query.is_cuda:
        query, key, value = varlen.in_autocast_type(query, key, value)
    lengths = kwargs["row_lengths"]
    shared = int(kwargs.get("shared_prefix") or 0)
    masks, prefix = kwargs.get("row_masks"), kwargs.get("row_prefix")
    first = prefix[module.layer_idx] if prefix else None
    common = shared if first is None else first[0].shape[2]
    narrow = window is not None and max(lengths) + common > window
    if not (masks or prefix or dropout or narrow) and row_attention.fits(query, key, value):
        return row_attention.attend(query, key, value, lengths, shared, scaling), None
    if not (masks or dropout or (prefix and narrow)) and varlen.fits(query):
        ends = boundaries, kwargs["cu_seq_lens_k"] if shared else boundaries
        packed = varlen.PackedRows(lengths, ends, shared)
        return varlen.attend((query, key, value), packed, scaling, window, first), None
    parts = [row_attention.rows_of(part, lengths, shared) for part in (query, key, value)]
    rows = _one_by_one(parts, masks, first, scaling, window, dropout)
    rows[1:] = [row[:, :, shared:] for row in rows[1:]]
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


def _one_by_one(
    parts: list[list[torch.Tensor]],
    masks: list[torch.Tensor | None] | None,
    prefix: tuple[torch.Tensor, torch.Tensor] | None,
    scaling: float | None,
    window: int | None,
    dropout: float,
) -> list[torch.Tensor]:
    """Compute the attention of each row in a separate kernel call.

    Args:
        parts: queries, keys and values, each row (1, heads, tokens, head_dim).
        masks: who sees whom in each row; None: every token sees those before it.
        prefix: keys and values that all rows see.
    """
    before = 0 if prefix is None else prefix[0].shape[2]
    rows = []
    for query, key, value, mask in zip(*parts, masks or [None] * len(parts[0]), strict=True):
        if prefix is not None:
            key, value = (torch.cat(pair, dim=2) for pair in zip(prefix, (key, value), strict=True))
        seen = _seen(query.shape[2], before, window, mask, query.device)
        shared_by = query.shape[1] // key.shape[1]
        if query.is_cuda and shared_by > 1:
            # With heads that share keys, only SDPA's plain kernel takes a mask or float32 there,
            # and keeps heads x tokens x tokens scores.
            key, value = (part.repeat_interleave(shared_by, 1) for part in (key, value))
        rows.append(
            functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=seen,
                dropout_p=dropout,
                is_causal=seen is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return rows


def _seen(
    length: int, before: int, window: int | None, mask: torch.Tensor | None, device: torch.device
) -> torch.Tensor | None:
    """Return (length, before + length), true where a token sees another; None: plain causal."""
    if mask is not None:
        return functional.pad(mask, (before, 0), value=True)
    if not before and (window is None or length <= window):
        return None
    places = torch.arange(before + length, device=device)
    distance = places[before:, None] - places[None, :]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Return None for rows that transformers recognised as packed (see `_attend`), else SDPA's.

    transformers forbids the causal shortcut exactly when the position ids restart within a row.
    """
    packed = (
        kwargs.get("batch_size") == 1
        and kwargs.get("attention_mask") is None
        and kwargs.get("q_length") == kwargs.get("kv_length")
        and not kwargs.get("allow_is_causal_skip", True)
    )
    if packed:
        return None
    mask: torch.Tensor | None = sdpa_mask(*args, **kwargs)
    return mask
