"""AdamW and the schedule of a stage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.plan.values import Stage

# Prefix of the names of a critic's tensors (see `tasks.value`).
CRITIC = "value_head."


def optimizer_and_schedule(
    parameters: list[tuple[str, torch.nn.Parameter]], plan: Plan, stage: Stage
) -> tuple[torch.optim.Optimizer, Any]:
    """Make AdamW over the trainable tensors, and the stage's schedule at its first step.

    Weight decay excludes vectors (norms and biases), as in transformers. With a `b_rate_ratio` the
    factors B of a LoRA have their own learning rate (LoRA+, Hayou et al. 2024), and so has a
    critic.
    """
    train = plan.recipe.train
    rates = {name: _own_rate(name, plan, stage) for name, _ in parameters}
    groups = []
    for rate in dict.fromkeys(rates.values()):
        members = [p for name, p in parameters if rates[name] == rate]
        groups += [
            {
                "params": [p for p in members if p.ndim > 1],
                "weight_decay": train.weight_decay,
                "lr": rate,
            },
            {"params": [p for p in members if p.ndim <= 1], "weight_decay": 0.0, "lr": rate},
        ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=stage.learning_rate,
        betas=(train.adam_beta1, train.adam_beta2),
        eps=train.adam_epsilon,
        # One kernel for all tensors. On a CPU the default keeps the updates of earlier runs; in
        # float16 a step that overflows is skipped by who calls the optimizer.
        fused=True if plan.device == "cuda" and plan.dtype != "float16" else None,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: rate_share(train.scheduler, step, stage.steps, stage.warmup_steps),
    )
    return optimizer, schedule


def follow(optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """Give the next step the rate of a schedule that is not the one of the steps before it."""
    rates = [
        base * share(schedule.last_epoch)
        for base, share in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates


def _own_rate(name: str, plan: Plan, stage: Stage) -> float:
    """Return the peak learning rate of a trainable tensor."""
    if name.startswith(CRITIC) and plan.ppo.value_learning_rate != "auto":
        return plan.ppo.value_learning_rate
    ratio = getattr(plan.recipe.method, "b_rate_ratio", 1.0)
    return stage.learning_rate * (ratio if "lora_B" in name else 1.0)


def rate_share(kind: str, step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at `step` (from 0) of `steps`.

    The warmup rises from 1 / (warmup + 1), so that every step has an effect; linear and cosine
    fall to 0 at `steps`, one step after the last.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 if kind == "constant" else 1.0 - progress
