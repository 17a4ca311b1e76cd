"""The optimizer and the schedule of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from tuner.model import parameter_kinds
from tuner.model.layers import Weight
from tuner.plan.optimizers import OPTIMIZERS, decay_steps

if TYPE_CHECKING:
    from tuner.plan.plan import Plan
    from tuner.plan.values import Stage
    from tuner.recipe.schema_train import TrainSection

# Prefix of the names of a critic's tensors (see `tasks.value`).
CRITIC = "value_head."

Named = list[tuple[str, torch.nn.Parameter]]
Groups = list[dict[str, Any]]


def optimizer_and_schedule(
    model: Any, parameters: Named, plan: Plan, stage: Stage
) -> tuple[torch.optim.Optimizer, Any]:
    """Make the recipe's optimizer over the trainable tensors, and the schedule at its first step.

    Weight decay excludes vectors (norms and biases), as in transformers. With a `b_rate_ratio` the
    factors B of a LoRA have their own learning rate (LoRA+, Hayou et al. 2024), and so has a
    critic. Tensors that an optimizer is not for are trained by AdamW next to it.
    """
    train = plan.recipe.train
    row = OPTIMIZERS[train.optimizer]
    kinds = parameter_kinds.of(model) if row.by_adamw else {}
    own, others = Named(), Named()
    for name, parameter in parameters:
        kind = "head" if name.startswith(CRITIC) else kinds.get(name, "inner")
        mine = row.trains(Weight(tuple(parameter.shape), kind))
        (own if mine else others).append((name, parameter))
    parts = [
        make(_groups(named, plan, stage), stage.learning_rate, plan)
        for make, named in ((_MAKERS[row.name], own), (_adamw, others))
        if named
    ]
    optimizer = parts[0] if len(parts) == 1 else Together(parts)
    if row.averages:
        train_mode: Any = optimizer
        train_mode.train()
    kind = plan.values["train.scheduler"].value
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: rate_share(kind, step, stage.steps, stage.warmup_steps, train),
    )
    return optimizer, schedule


def _groups(named: Named, plan: Plan, stage: Stage) -> Groups:
    """Return parameter groups by learning rate, each of matrices and of vectors."""
    rates = {name: _own_rate(name, plan, stage) for name, _ in named}
    groups = Groups()
    for rate in dict.fromkeys(rates.values()):
        members = [p for name, p in named if rates[name] == rate]
        decay = plan.recipe.train.weight_decay
        groups += [
            {"params": [p for p in members if p.ndim > 1], "weight_decay": decay, "lr": rate},
            {"params": [p for p in members if p.ndim <= 1], "weight_decay": 0.0, "lr": rate},
        ]
    return [group for group in groups if group["params"]]


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


def _adam(train: TrainSection) -> dict[str, Any]:
    return {"betas": (train.adam_beta1, train.adam_beta2), "eps": train.adam_epsilon}


def _fused(plan: Plan) -> bool | None:
    """Return whether all tensors are updated by one kernel: on a GPU.

    On a CPU the default keeps the updates of earlier runs; in float16 a step that overflows is
    skipped by who calls the optimizer.
    """
    return True if plan.device == "cuda" and plan.dtype != "float16" else None


def _adamw(groups: Groups, rate: float, plan: Plan) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=rate, fused=_fused(plan), **_adam(plan.recipe.train))


def _adamw8bit(groups: Groups, rate: float, plan: Plan) -> torch.optim.Optimizer:
    from bitsandbytes.optim import adamw

    kind: Any = adamw.AdamW8bit
    made: torch.optim.Optimizer = kind(groups, lr=rate, **_adam(plan.recipe.train))
    return made


def _paged_adamw8bit(groups: Groups, rate: float, plan: Plan) -> torch.optim.Optimizer:
    if plan.device == "cpu":
        return _adamw8bit(groups, rate, plan)
    from tuner.tasks import paged_optimizer

    kind: Any = paged_optimizer.PagedAdamW8bit
    made: torch.optim.Optimizer = kind(groups, lr=rate, **_adam(plan.recipe.train))
    return made


def _adafactor(groups: Groups, rate: float, plan: Plan) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups, lr=rate)


def _lion(groups: Groups, rate: float, plan: Plan) -> torch.optim.Optimizer:
    from bitsandbytes.optim import lion

    kind: Any = lion.Lion
    made: torch.optim.Optimizer = kind(groups, lr=rate, betas=(0.9, 0.99))
    return made


def _muon(groups: Groups, rate: float, plan: Plan) -> torch.optim.Optimizer:
    # Updates of the size of AdamW's, so that its learning rates apply (Liu et al. 2025).
    return torch.optim.Muon(groups, lr=rate, momentum=0.95, adjust_lr_fn="match_rms_adamw")


def _schedule_free(groups: Groups, rate: float, plan: Plan) -> torch.optim.Optimizer:
    import schedulefree

    # The warmup is that of the schedule: earlier steps weigh less in the average by their rate.
    made: torch.optim.Optimizer = schedulefree.AdamWScheduleFree(
        groups, lr=rate, warmup_steps=0, **_adam(plan.recipe.train)
    )
    return made


def _sgd(groups: Groups, rate: float, plan: Plan) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, fused=_fused(plan))


_MAKERS: Mapping[str, Callable[[Groups, float, Plan], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "paged_adamw8bit": _paged_adamw8bit,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
    "schedule_free": _schedule_free,
    "sgd": _sgd,
}


class Together(torch.optim.Optimizer):
    """Several optimizers as one, each on its own parameter groups.

    Groups and state are this object's: a schedule sets their rates, checkpoints and accelerate
    read and replace them. The parts are given theirs before each step.

    Args:
        parts: the optimizers, without state.
    """

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        self.counts = [len(part.param_groups) for part in self.parts]
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def load_state_dict(self, state_dict: Any) -> None:
        """Keep the state as it is.

        accelerate loads an optimizer's own state to move it to the device, where this one is;
        torch would convert the codes of 8-bit states to the type of the parameters.
        """

    def step(self, closure: Any = None) -> Any:
        """Make the step of each part; the loss, if a closure computes one."""
        loss = None if closure is None else closure()
        start = 0
        for part, count in zip(self.parts, self.counts, strict=True):
            part.param_groups = self.param_groups[start : start + count]
            part.state = self.state
            part.step()
            start += count
        return loss


def page(optimizer: torch.optim.Optimizer) -> None:
    """Put the state of a paged optimizer that was restored into paged memory."""
    for part in optimizer.parts if isinstance(optimizer, Together) else [optimizer]:
        put: Any = getattr(part, "page", None)
        if put is not None:
            part.state = optimizer.state
            put()


def rate_share(kind: str, step: int, steps: int, warmup: int, train: TrainSection) -> float:
    """Return the share of the peak learning rate at `step` (from 0) of `steps`.

    The warmup rises from 1 / (warmup + 1), so that every step has an effect. After it the shapes
    are those of transformers' schedules: they fall to `train.floor` at `steps`, one step after the
    last, except inverse_sqrt, which has no end.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    done, whole = step - warmup, max(1, steps - warmup)
    falls = _shape(kind, done, whole, warmup, train, decay_steps(train, steps))
    # Exactly the share itself where there is no floor.
    return falls if train.floor == 0.0 else train.floor + (1.0 - train.floor) * falls


def _shape(kind: str, done: int, whole: int, warmup: int, train: TrainSection, decay: int) -> float:
    """Return where a schedule is between 1 and its floor, `done` of `whole` steps after warmup."""
    progress = min(1.0, done / whole)
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if kind == "wsd":
        return min(1.0, max(0.0, (whole - done) / decay)) if decay else 1.0
    if kind == "polynomial":
        return float((1.0 - progress) ** train.power)
    if kind == "inverse_sqrt":
        # transformers' time scale.
        scale = warmup or 10_000
        return math.sqrt(scale / (done + scale))
    if kind == "cosine_restarts":
        if progress >= 1.0:
            return 0.0
        return 0.5 * (1.0 + math.cos(math.pi * (train.cycles * progress % 1.0)))
    return 1.0 - progress
