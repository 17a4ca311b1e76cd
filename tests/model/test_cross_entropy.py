"""The loss over the vocabulary: as torch computes it, without copies of the logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tuner.data.tokens.example import IGNORED
from tuner.model.kernels.cross_entropy import cross_entropies, entropies


def test_the_loss_is_torchs_and_leaves_no_copies() -> None:
    """Value and gradient against float64; the gradient stands where the logits were."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(150, 333, generator=generator) * 4
    targets = torch.randint(0, 333, (150,), generator=generator)
    targets[::7] = IGNORED
    exact = logits.double().requires_grad_()
    expected = functional.cross_entropy(exact, targets, ignore_index=IGNORED, reduction="sum")
    (expected / 9).backward()
    weight = torch.eye(333)
    leaf = logits.clone().requires_grad_()
    computed = leaf @ weight
    place = computed.data_ptr()
    total = cross_entropies(computed, targets).sum()
    (total / 9).backward()
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float((leaf.grad - exact.grad).abs().max()) < 1e-6
    assert computed.data_ptr() == place
    assert torch.allclose(computed.detach().double(), exact.grad, atol=1e-6)
    assert float(cross_entropies(torch.ones(0, 5), torch.ones(0, dtype=torch.long)).sum()) == 0.0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_losses_and_entropies_of_each_token_are_torchs(temperature: float) -> None:
    """Each token with a weight of its own, at a sampling temperature, as PPO reads them."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(150, 333, generator=generator) * 4
    targets = torch.randint(0, 333, (150,), generator=generator)
    targets[::5] = IGNORED
    weights = torch.randn(150, generator=generator)
    exact = logits.double().requires_grad_()
    expected = functional.cross_entropy(exact / temperature, targets, reduction="none")
    (expected * weights.double()).sum().backward()
    likely = (exact.detach() / temperature).log_softmax(dim=1)
    found = entropies(logits, temperature)
    assert torch.allclose(found.double(), -(likely.exp() * likely).sum(dim=1), atol=1e-5)
    leaf = logits.requires_grad_()
    losses = cross_entropies(leaf * 1, targets, temperature)
    (losses * weights).sum().backward()
    assert torch.allclose(losses.detach().double(), expected.detach(), atol=1e-5)
    assert torch.allclose(leaf.grad.double(), exact.grad, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_smoothed_losses_are_torchs(temperature: float) -> None:
    """Value and gradient of each token against float64, ignored ones too."""
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(150, 333, generator=generator) * 4
    targets = torch.randint(0, 333, (150,), generator=generator)
    targets[::5] = IGNORED
    weights = torch.randn(150, generator=generator)
    exact = logits.double().requires_grad_()
    expected = functional.cross_entropy(
        exact / temperature, targets, reduction="none", label_smoothing=0.15
    )
    (expected * weights.double()).sum().backward()
    leaf = logits.requires_grad_()
    losses = cross_entropies(leaf * 1, targets, temperature, 0.15)
    (losses * weights).sum().backward()
    assert torch.allclose(losses.detach().double(), expected.detach(), atol=1e-5)
    assert torch.allclose(leaf.grad.double(), exact.grad, atol=1e-6)
    nothing = torch.ones(0, dtype=torch.long)
    assert float(cross_entropies(torch.ones(0, 5), nothing, smoothing=0.1).sum()) == 0.0


def test_the_loss_of_half_precision_takes_no_float32_copy() -> None:
    """The gradient is float32's, rounded once, and stands where the bfloat16 logits were."""
    generator = torch.Generator().manual_seed(6)
    leaf = (torch.randn(150, 333, generator=generator) * 4).bfloat16().requires_grad_()
    targets = torch.randint(0, 333, (150,), generator=generator)
    exact = leaf.detach().float().requires_grad_()
    expected = functional.cross_entropy(exact, targets, reduction="sum")
    expected.backward()
    computed = leaf * 1
    place = computed.data_ptr()
    total = cross_entropies(computed, targets).sum()
    total.backward()
    assert total.dtype == torch.float32
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert computed.data_ptr() == place
    torch.testing.assert_close(leaf.grad, exact.grad.bfloat16(), rtol=2**-7, atol=1e-6)


def test_the_loss_refuses_to_spoil_logits_that_are_needed_elsewhere() -> None:
    leaf = torch.randn(4, 6, requires_grad=True)
    logits = leaf.exp()
    total = cross_entropies(logits, torch.tensor([0, 1, 2, 3])).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
