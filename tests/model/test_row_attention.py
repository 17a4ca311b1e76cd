"""Attention of rows: the gradients are those of torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tuner.model.kernels import row_attention


def row_gradients(
    parts: list[torch.Tensor], lengths: list[int], shared: int, dresult: torch.Tensor
) -> list[torch.Tensor]:
    """Result and gradients of rows by torch's attention, each with its shared tokens."""
    leaves = [part.detach().clone().requires_grad_() for part in parts]
    rows = [row_attention.rows_of(leaf, lengths, shared) for leaf in leaves]
    outputs = [
        functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        for q, k, v in zip(*rows, strict=True)
    ]
    whole = torch.cat([outputs[0], *(row[:, :, shared:] for row in outputs[1:])], dim=2)
    whole = whole.transpose(1, 2)
    return [whole.detach(), *torch.autograd.grad(whole, leaves, dresult)]


@pytest.mark.parametrize("shared", [0, 5])
@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_attention_of_rows_has_the_gradients_of_torch(key_heads: int, shared: int) -> None:
    """Against float64; rows that end before, on and after a block, and shared first tokens.

    In float32 bounded by the largest value: the order of sums differs by processor.
    """
    lengths = [70, 1, 63, 64, 65, 130]
    generator = torch.Generator().manual_seed(3)

    def made(heads: int) -> torch.Tensor:
        # As the layers give them: tokens first.
        return torch.randn(1, sum(lengths), heads, 16, generator=generator).transpose(1, 2)

    parts = [made(6), made(key_heads), made(key_heads)]
    dresult = made(6).transpose(1, 2)
    exact = row_gradients([part.double() for part in parts], lengths, shared, dresult.double())
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [part.to(dtype).requires_grad_() for part in parts]
        assert row_attention.fits(*leaves)
        result = row_attention.attend(*leaves, lengths, shared, None)
        mine = [result.detach(), *torch.autograd.grad(result, leaves, dresult.to(dtype))]
        theirs = row_gradients(leaves, lengths, shared, dresult.to(dtype))
        assert torch.equal(mine[0], theirs[0])
        for expected, found, other in zip(exact, mine, theirs, strict=True):
            errors = [x.double() - expected for x in (found, other)]
            tolerance = 0.1 if dtype == torch.bfloat16 else 2e-6 * float(expected.abs().max())
            assert float(errors[0].abs().max()) < tolerance
            assert dtype == torch.float32 or errors[0].norm() <= 1.01 * errors[1].norm()


def test_attention_of_a_kind_the_kernel_does_not_know_is_left_to_torch() -> None:
    part = torch.randn(1, 2, 8, 4).requires_grad_()
    assert row_attention.fits(part, part, part)
    assert not row_attention.fits(part.double(), part.double(), part.double())
    assert not row_attention.fits(part, part, part[..., :2])
    assert not row_attention.fits(part.mT, part.mT, part.mT)
    with torch.no_grad():
        assert not row_attention.fits(part, part, part)
