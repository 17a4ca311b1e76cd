"""The formulas of PPO, by hand and by naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.policies import EOS, near
from tuner.tasks.ppo_math import (
    RunningScale,
    adapt,
    advantages,
    kl_k1,
    kl_k3,
    policy_losses,
    token_rewards,
    value_losses,
    whiten,
)


def test_the_score_is_on_the_last_token() -> None:
    """R08: `[t, t, eos]` and `[t, t, t, t, t]`; the penalty is on every token."""
    kl = torch.tensor([0.1, -0.2, 0.3, 0.0, 1.0, 0.0, 2.0, -1.0])
    found = token_rewards(torch.tensor([2.0, -3.0]), kl, 0.5, [3, 5])
    assert found.tolist() == near([-0.05, 0.1, 1.85, 0, -0.5, 0, -1, -2.5])


def test_the_score_is_where_a_naive_search_finds_the_end() -> None:
    """R08: 50 random shapes against padded rows with stop tokens."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        count, longest = generator.integers(1, 6), int(generator.integers(1, 9))
        rows, lengths = [], []
        for _ in range(count):
            length = int(generator.integers(1, longest + 1))
            row = [7] * length + [0] * (longest - length)
            if length < longest or generator.random() < 0.5:
                row[length - 1] = EOS
            rows.append(row)
            lengths.append(length)
        kl = generator.normal(size=(count, longest))
        scores = generator.normal(size=count)
        expected = []
        for row, penalties, score in zip(rows, kl, scores, strict=True):
            end = row.index(EOS) if EOS in row else longest - 1
            expected += [-0.3 * penalties[n] + score * (n == end) for n in range(end + 1)]
        flat = np.concatenate([row[:length] for row, length in zip(kl, lengths, strict=True)])
        found = token_rewards(torch.tensor(scores), torch.tensor(flat), 0.3, lengths)
        assert found.tolist() == near(expected)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_advantages_equal_a_naive_double_sum(gamma: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = [1, 6, 3, 9]
    rewards = torch.randn(sum(lengths), generator=generator, dtype=torch.float64)
    values = torch.randn(sum(lengths), generator=generator, dtype=torch.float64)
    found, returns = advantages(rewards, values, lengths, gamma, lam)
    expected = []
    for mine, own in zip(rewards.split(lengths), values.split(lengths), strict=True):
        following = [*own[1:], 0.0]
        errors = [r + gamma * v - u for r, v, u in zip(mine, following, own, strict=True)]
        for place in range(len(mine)):
            later = range(place, len(mine))
            expected.append(sum((gamma * lam) ** (n - place) * errors[n] for n in later))
    assert found.tolist() == near(expected)
    assert returns.tolist() == near(torch.stack(expected) + values)


@pytest.mark.parametrize("mean", [0.0, 30.0, -400.0])
def test_whitening_is_numpys(mean: float) -> None:
    """R11: in float32, far from 0 too."""
    values = (np.random.default_rng(2).normal(size=300) * 1.5 + mean).astype(np.float32)
    white = whiten(torch.from_numpy(values))
    exact = values.astype(np.float64)
    expected = (exact - exact.mean()) / exact.std()
    # What float32 can tell apart at this distance from 0.
    step = float(np.spacing(np.float32(abs(mean) + 1)))
    assert np.abs(white.numpy() - expected).max() < 1e-6 + step
    kept = whiten(torch.from_numpy(values), shift=False)
    assert float(kept.mean()) == pytest.approx(float(exact.mean()), abs=1e-5 + step)
    assert kept.numpy() == pytest.approx(expected + exact.mean(), abs=1e-6 + 2 * step)


@pytest.mark.parametrize("value", [0.1, 1000.3, -7.0, 0.0])
def test_what_has_no_spread_stays_finite(value: float) -> None:
    """R11: a single value, and equal values, of any size."""
    for count in (1, 5, 300):
        white = whiten(torch.full((count,), value))
        assert white.abs().max() < 1e-3
        assert white.dtype == torch.float32


def test_kl_estimates_by_hand() -> None:
    new, old = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.5])
    assert kl_k1(new, old).tolist() == near([0.5, -1, 0])
    expected = [math.exp(-0.5) - 1 + 0.5, math.exp(1) - 1 - 1, 0]
    assert kl_k3(new, old).tolist() == near(expected)


LOG_PROBABILITY = st.floats(-30, 0, width=32)


@given(st.lists(st.tuples(LOG_PROBABILITY, LOG_PROBABILITY), min_size=1, max_size=20))
def test_the_k3_estimate_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    """R06."""
    new, old = torch.tensor(pairs).T
    assert (kl_k3(new, old) >= 0).all()


def test_the_k3_estimate_of_a_hairs_breadth_is_not_negative() -> None:
    """R06: where rounding is as large as the estimate."""
    new = torch.full((20001,), -2.0)
    for width in (1e-7, 1e-5, 1e-3, 0.1):
        old = new + torch.linspace(-width, width, 20001)
        assert (kl_k3(new, old) >= 0).all()


def test_policy_losses_by_hand() -> None:
    """Ratios 1.5 and 0.5 with both signs of the advantage; a ratio in the range is never cut."""
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 0.9])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, -2.0])
    old = torch.full((6,), -3.0)
    losses, cut = policy_losses(old + ratio.log(), old, advantage, 0.2)
    assert losses.tolist() == near([-1.2, 1.5, -0.5, 0.8, -2.2, 1.8])
    assert cut.tolist() == [True, False, False, True, False, False]
    assert float(cut.float().mean()) == pytest.approx(1 / 3)


def test_policy_losses_learn_nothing_where_they_are_cut() -> None:
    new = torch.log(torch.tensor([1.5, 0.5, 1.1])).requires_grad_()
    losses, _ = policy_losses(new, torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]), 0.2)
    losses.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == near([0, 0, -1.1])


def test_value_losses_by_hand() -> None:
    """The clipped value counts where it is the worse one: it cannot run ahead of the old value."""
    new, old = torch.tensor([1.0, 1.0, 0.1, -1.0]), torch.zeros(4)
    returns = torch.tensor([1.0, 0.0, 1.0, 2.0])
    expected = [0.5 * 0.8**2, 0.5, 0.5 * 0.9**2, 0.5 * 9]
    assert value_losses(new, old, returns, 0.2).tolist() == near(expected)


def test_the_kl_coefficient_moves_towards_its_target() -> None:
    assert adapt(0.1, 6.0, 6.0, 32, 1000) == pytest.approx(0.1)
    assert adapt(0.1, 6.6, 6.0, 50, 1000) == pytest.approx(0.1 * (1 + 0.1 * 0.05))
    assert adapt(0.1, 60.0, 6.0, 50, 1000) == pytest.approx(0.1 * 1.01)
    assert adapt(0.1, -3.0, 6.0, 50, 1000) == pytest.approx(0.1 * 0.99)


@pytest.mark.parametrize("center", [0.0, 1e4])
def test_the_running_scale_is_numpys_and_does_not_drift(center: float) -> None:
    """R11: over all scores so far, in whatever portions they come."""
    scores = np.random.default_rng(4).normal(center, 3.0, size=60)
    scale, seen = RunningScale(), 0
    for size in (1, 7, 16, 16, 20):
        spread = scale.add(scores[seen : seen + size].tolist())
        seen += size
        expected = float(scores[:seen].std()) if seen > 1 else 1.0
        assert spread == pytest.approx(expected, abs=1e-6)
    assert RunningScale().add([2.5, 2.5, 2.5]) == 1.0
