"""Attention of packed rows by one or two calls of a kernel for rows of different lengths (M09).

The kernel itself is a GPU's. Where there is none, its two passes are stood in for by their formulas
in float64, so that what is tested is ours: which queries meet which keys, how two results become
one, and the gradients of that.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tuner.model.kernels import attention, varlen
from tuner.model.kernels.varlen import PackedRows

LENGTHS, HEADS, GROUPS, SIZE = [9, 3, 6], 4, 2, 8

# `varlen_attn` of each torch, after the seven arguments that all have.
_AS_OF_2_12 = (
    "*, return_aux=None, scale=None, window_size=(-1, -1), enable_gqa=False, seqused_k=None, "
    "block_table=None, num_splits=None"
)
SIGNATURES = {
    "2.10": "is_causal=False, return_aux=None",
    "2.11": "*, return_aux=None, scale=None, window_size=(-1, -1)",
    "2.12": _AS_OF_2_12,
    "2.13": _AS_OF_2_12,
    "2.14": _AS_OF_2_12,
    "2.15": _AS_OF_2_12,
}


def kernel_of(version: str) -> Any:
    """A function with the signature of a version of torch, that returns its arguments."""
    first = "query, key, value, cu_seq_q, cu_seq_k, max_q, max_k"
    space: dict[str, Any] = {}
    exec(f"def varlen_attn({first}, {SIGNATURES[version]}): return locals()", space)
    return space["varlen_attn"]


def packed(heads: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        1, heads, sum(LENGTHS), SIZE, dtype=torch.float64, generator=generator
    ).requires_grad_()


def qkv() -> list[torch.Tensor]:
    return [packed(HEADS, 1), packed(GROUPS, 2), packed(GROUPS, 3)]


def rows_of(shared: int = 0) -> PackedRows:
    whole = [LENGTHS[0], *(shared + length for length in LENGTHS[1:])]
    ends = [torch.tensor([0, *each]).cumsum(0).int() for each in (LENGTHS, whole)]
    return PackedRows(LENGTHS, (ends[0], ends[1]), shared)


@pytest.mark.parametrize("version", [name for name in SIGNATURES if name != "2.10"])
@pytest.mark.parametrize("window", [None, 4])
def test_each_torch_gets_the_arguments_that_it_has(
    version: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.11 has no `enable_gqa`; 2.10 cannot scale or cut a window: pyproject asks for 2.11."""
    found: dict[str, Any] = {}
    kernel = kernel_of(version)

    def told(*given: Any, **more: Any) -> torch.Tensor:
        found.update(kernel(*given, **more))
        return given[0]

    told.__signature__ = inspect.signature(kernel)  # type: ignore[attr-defined]
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", told)
    varlen._known.cache_clear()
    try:
        varlen.attend(qkv(), rows_of(), 0.5, window)
    finally:
        varlen._known.cache_clear()
    assert (found["max_q"], found["scale"]) == (9, 0.5)
    assert found["window_size"] == ((-1, 0) if window is None else (3, 0))
    assert found.get("enable_gqa", "no such argument") == (
        "no such argument" if version == "2.11" else True
    )
    # A row's sums do not depend on its neighbours.
    assert found.get("num_splits", 1) == 1


def test_the_installed_torch_is_one_of_those() -> None:
    from torch.nn.attention import varlen as installed

    version = ".".join(torch.__version__.split(".")[:2])
    if version not in SIGNATURES:
        pytest.fail(f"record the signature of varlen_attn in torch {version}")
    ours = list(inspect.signature(kernel_of(version)).parameters)
    assert list(inspect.signature(installed.varlen_attn).parameters) == ours


def seen(queries: int, keys: int, window: tuple[int, int]) -> torch.Tensor:
    """Who sees whom: by FlashAttention's rule, the last query sees the last key."""
    left, right = window
    distance = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)[None]
    allowed = torch.ones(queries, keys, dtype=torch.bool)
    if right >= 0:
        allowed &= distance >= -right
    if left >= 0:
        allowed &= distance <= left
    return allowed


def each(q: Any, k: Any, v: Any, ends: Any, scale: float | None) -> Iterator[Any]:
    """Yield for each row where it is, its scaled scores (heads, queries, keys), and its parts."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    groups = q.shape[1] // k.shape[1]
    queries, keys = (part.tolist() for part in ends)
    for a, b, c, d in zip(queries, queries[1:], keys, keys[1:], strict=False):
        wide_k, wide_v = (part[c:d].repeat_interleave(groups, 1).transpose(0, 1) for part in (k, v))
        row = q[a:b].transpose(0, 1)
        yield SimpleNamespace(
            q=slice(a, b),
            k=slice(c, d),
            row=row,
            keys=wide_k,
            values=wide_v,
            scale=scale,
            scores=row @ wide_k.mT * scale,
            groups=groups,
        )


def forward(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, *most: Any) -> tuple[torch.Tensor, ...]:
    """`torch_attn::_varlen_attn` by its formula."""
    _, _, causal, scale, window = most
    assert causal == (list(window) == [-1, 0])
    out, norms = torch.empty_like(q), q.new_empty(q.shape[1], len(q))
    for row in each(q, k, v, (cu_q, cu_k), scale):
        hidden = ~seen(*row.scores.shape[1:], tuple(window))
        scores = row.scores.masked_fill(hidden, float("-inf"))
        norms[:, row.q] = scores.logsumexp(-1)
        out[row.q] = (scores.softmax(-1) @ row.values).transpose(0, 1)
    return out, norms, torch.zeros(2)


def backward(
    dout: Any, q: Any, k: Any, v: Any, out: Any, norms: Any, cu_q: Any, cu_k: Any, *most: Any
) -> tuple[torch.Tensor, ...]:
    """`torch_attn::_varlen_attn_backward` by FlashAttention-2's formulas: what it is given as
    result and denominators may be those of more keys than it sees."""
    _, _, _, _, scale, window = most
    grads = [torch.zeros_like(part) for part in (q, k, v)]
    for row in each(q, k, v, (cu_q, cu_k), scale):
        shares = (row.scores - norms[:, row.q, None]).exp()
        shares = shares.masked_fill(~seen(*row.scores.shape[1:], tuple(window)), 0.0)
        dy, y = dout[row.q].transpose(0, 1), out[row.q].transpose(0, 1)
        dscores = shares * (dy @ row.values.mT - (dy * y).sum(-1, keepdim=True)) * row.scale
        grads[0][row.q] = (dscores @ row.keys).transpose(0, 1)
        for into, wide in ((grads[1], dscores.mT @ row.row), (grads[2], shares.mT @ dy)):
            narrow = wide.unflatten(0, (-1, row.groups)).sum(1)
            into[row.k] += narrow.transpose(0, 1)
    return tuple(grads)


@pytest.fixture
def formulas(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for the kernel's two passes; returns which were called."""
    calls: list[str] = []

    def called(name: str, function: Any) -> Any:
        return lambda *given: calls.append(name) or function(*given)

    def one_call(q: Any, k: Any, v: Any, *given: Any, **more: Any) -> torch.Tensor:
        calls.append("one call")
        wide = [*given, False, more["scale"], more["window_size"]]
        return differentiable(q, k, v, *wide)

    operators = SimpleNamespace(
        _varlen_attn=called("forward", forward), _varlen_attn_backward=called("backward", backward)
    )
    monkeypatch.setattr(varlen.torch.ops, "torch_attn", operators, raising=False)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", one_call)
    monkeypatch.setattr(varlen, "_known", frozenset)
    return calls


def differentiable(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, *most: Any) -> torch.Tensor:
    *_, scale, window = most
    rows = []
    for row in each(q, k, v, (cu_q, cu_k), scale):
        hidden = ~seen(*row.scores.shape[1:], tuple(window))
        shares = row.scores.masked_fill(hidden, float("-inf")).softmax(-1)
        rows.append((shares @ row.values).transpose(0, 1))
    return torch.cat(rows)


def plain(parts: Any, shared: int, before: Any, scale: float | None, window: Any) -> torch.Tensor:
    """Each row by itself, with the common tokens before it."""
    from tuner.model.kernels.row_attention import rows_of as cut

    wide = [cut(part, LENGTHS, shared) for part in parts]
    rows = attention._one_by_one(wide, None, before, scale, window, 0.0)
    return torch.cat([rows[0], *(row[:, :, shared:] for row in rows[1:])], dim=2).transpose(1, 2)


@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize(
    ("shared", "virtual", "window", "calls"),
    [
        (0, 0, None, ["one call"]),
        (0, 0, 4, ["one call"]),
        (5, 0, None, ["one call"]),
        (5, 0, 7, ["one call"]),
        (0, 3, None, ["forward", "forward", "backward", "backward"]),
    ],
    ids=str,
)
def test_rows_that_see_common_keys_are_as_if_each_had_them(
    shared: int,
    virtual: int,
    window: int | None,
    calls: list[str],
    scale: float | None,
    formulas: list[str],
) -> None:
    """M09: result and gradients in float64, those of the common keys included."""
    parts, before = qkv(), None
    if virtual:
        made = [torch.randn(1, GROUPS, virtual, SIZE, dtype=torch.float64) for _ in range(2)]
        before = (made[0].requires_grad_(), made[1].requires_grad_())
    inputs = [*parts, *(before or ())]
    direction = torch.randn(1, sum(LENGTHS), HEADS, SIZE, dtype=torch.float64)

    def outcome(result: torch.Tensor) -> list[torch.Tensor]:
        return [result, *torch.autograd.grad((result * direction).sum(), inputs)]

    ours = outcome(varlen.attend(parts, rows_of(shared), scale, window, before))
    wanted = outcome(plain(parts, shared, before, scale, window))
    assert formulas == calls
    for got, reference in zip(ours, wanted, strict=True):
        assert torch.allclose(got, reference, rtol=0.0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("shared", "window"), [(0, None), (0, 5), (5, None), (5, 7)])
def test_flash_attention_of_all_rows_is_that_of_each(shared: int, window: int | None) -> None:
    """M09: on a GPU one kernel call takes all rows; as near to float64 as its type allows."""
    parts = [part.detach().to("cuda", torch.bfloat16) for part in qkv()]
    assert varlen.fits(parts[0])
    rows = rows_of(shared)
    on_gpu = PackedRows(LENGTHS, (rows.ends[0].cuda(), rows.ends[1].cuda()), shared)
    got = varlen.attend(parts, on_gpu, None, window)
    wanted = plain([part.double().cpu() for part in parts], shared, None, None, window)
    assert float((got.double().cpu() - wanted).abs().max()) < 0.03
