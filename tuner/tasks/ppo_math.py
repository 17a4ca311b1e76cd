"""The formulas of PPO on the tokens of sampled answers, each after its paper.

Tokens of all answers are in one row, (tokens,), without padding; `lengths` has the number of tokens
of each answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


def kl_k1(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Estimate KL(new || old) of tokens sampled from `new`: unbiased, of either sign."""
    return new - old


def kl_k3(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Estimate the same: unbiased, never negative, with less variance (Schulman 2020)."""
    return torch.expm1(old - new) - (old - new)


ESTIMATORS = {"k1": kl_k1, "k3": kl_k3}


def token_rewards(
    scores: torch.Tensor, kl: torch.Tensor, coefficient: float, lengths: Sequence[int]
) -> torch.Tensor:
    """Return (tokens,) the KL penalty of every token, plus the score of an answer on its last one.

    Args:
        scores: (answers,).
        kl: (tokens,) estimates.
        coefficient: weight of the KL penalty.
        lengths: tokens of each answer; the last one is the stop token if there is one.
    """
    rewards = -coefficient * kl
    last = torch.tensor(lengths, device=kl.device).cumsum(0) - 1
    return rewards.index_add(0, last, scores.to(rewards))


def advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    lengths: Sequence[int],
    gamma: float,
    lam: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute generalised advantage estimates (Schulman et al. 2016) within each answer.

    Returns:
        (tokens,) advantages, and (tokens,) returns, which are advantages + values.
    """
    found = torch.zeros_like(rewards)
    start = 0
    for length in lengths:
        ahead = later = rewards.new_zeros(())
        for place in range(start + length - 1, start - 1, -1):
            delta = rewards[place] + gamma * ahead - values[place]
            later = delta + gamma * lam * later
            found[place] = later
            ahead = values[place]
        start += length
    return found, found + values


def whiten(values: torch.Tensor, shift: bool = True) -> torch.Tensor:
    """Scale `values` to variance 1 and, with `shift`, mean 0.

    A single value, or equal values, stay finite.
    """
    # In float64: far from 0 the two sums differ by less than float32 resolves.
    exact = values.double()
    mean = exact.sum() / exact.numel()
    variance = ((exact**2).sum() / exact.numel() - mean**2).clamp(min=0)
    white: torch.Tensor = (exact - mean) * torch.rsqrt(variance + 1e-8)
    return (white if shift else white + mean).to(values.dtype)


def policy_losses(
    new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (tokens,) clipped surrogate losses, and which of them are clipped."""
    ratio = torch.exp(new - old)
    plain = -advantage * ratio
    cut = -advantage * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, cut), cut > plain


def value_losses(
    new: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return (tokens,) half squared errors, the larger of the value's and the clipped value's."""
    near = old + (new - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((new - returns) ** 2, (near - returns) ** 2)


def adapt(coefficient: float, kl: float, target: float, answers: int, horizon: int) -> float:
    """Return the next KL coefficient: higher if the KL is above target (Ziegler et al. 2019)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * answers / horizon)


@dataclass
class RunningScale:
    """Running count, mean and sum of squared deviations of scores (Welford)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, scores: Sequence[float]) -> float:
        """Add scores; return the standard deviation of all so far, or 1 if it is 0."""
        for score in scores:
            self.count += 1
            delta = score - self.mean
            self.mean += delta / self.count
            self.squares += delta * (score - self.mean)
        spread = math.sqrt(self.squares / self.count) if self.count > 1 else 0.0
        return spread or 1.0
