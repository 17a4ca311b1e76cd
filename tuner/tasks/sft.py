"""Supervised fine-tuning: cross-entropy of the answer tokens, on transformers' Trainer.

The Trainer runs the remaining steps over the remaining rows, with optimizer and schedule restored
to their state: so a resumed run takes the same steps as one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from tuner.data.tokens.example import IGNORED
from tuner.data.tokens.order import RankStream, Stream
from tuner.machine import ranks
from tuner.methods.full import StagedOptions
from tuner.model.kernels.cross_entropy import cross_entropies
from tuner.tasks import heads, sharding
from tuner.tasks.callbacks import LossCallback, StepLoss

if TYPE_CHECKING:
    from tuner.data.tokens.example import Example
    from tuner.plan.plan import Plan
    from tuner.plan.values import Stage
    from tuner.tasks.leg import Leg

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def token_loss(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: Any = None,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum the cross-entropy of the micro-batch's targets, divided by the step's target count.

    Args:
        outputs: the model's; logits (rows, positions, vocabulary) at the kept positions.
        labels: (rows, 1 + positions); the first column is ignored (see `data.pack`).
        num_items_in_batch: targets of the whole optimizer step over all processes; with weights,
            what these add up to.
        weights: of the targets, of the shape of `labels`.
        smoothing: of the targets (`train.label_smoothing`).
    """
    logits = outputs.logits
    targets = labels[:, 1:].reshape(-1).to(logits.device)
    flat = logits.reshape(-1, logits.shape[-1])
    losses = cross_entropies(flat, targets, smoothing=smoothing)
    learned: torch.Tensor = targets != IGNORED
    if weights is not None:
        weigh = weights[:, 1:].reshape(-1).to(losses)
        losses, learned = losses * weigh, learned * weigh
    return losses.sum() / (learned.sum() if num_items_in_batch is None else num_items_in_batch)


def places(plan: Plan, stage: Stage) -> range:
    """Return the places of a stage in the training order (see `data.pack`).

    A stage starts with an epoch and ends with its last row, so its last step may be shorter than
    the others.
    """
    count, batch = len(plan.prepared.train), plan.recipe.train.batch_size
    method, epochs = plan.recipe.method, [plan.recipe.train.epochs]
    if isinstance(method, StagedOptions):
        epochs = [asked.epochs for asked in method.stages]
    start = 0
    for present, passes in zip(plan.stages, epochs, strict=False):
        rows = min(max(1, math.ceil(round(passes * count, 6))), present.steps * batch)
        if present == stage:
            break
        start += math.ceil(rows / count) * count
    return range(start, start + rows)


def stream_of(plan: Plan, stage: Stage, first: int) -> Stream:
    """Return the rows of a stage from step `first` on, which counts from the start of the run."""
    batch = plan.recipe.train.batch_size
    order = places(plan, stage)[(first - stage.start) * batch :]
    return Stream(
        plan.prepared.train,
        plan.recipe.run.seed,
        order.start,
        order.stop,
        batch,
        grouped=not plan.packing,
    )


def trainer(leg: Leg) -> Trainer:
    """Return the Trainer of a leg."""
    plan = leg.plan
    if any(row.goals for row in plan.prepared.train):
        return on_trainer(leg, plan.training_collate, heads.head_loss, _weight)
    weighted = any(row.weights for row in plan.prepared.train)
    loss = partial(token_loss, smoothing=plan.recipe.train.label_smoothing)
    return on_trainer(leg, plan.training_collate, loss, _weight if weighted else None)


def _weight(rows: Sequence[Example]) -> float:
    return sum(row.weight for row in rows)


class WeighingTrainer(Trainer):
    """A Trainer that hands the weights of a micro-batch's targets to the loss, past the model, and
    leaves the norm of the gradients to the callback that clips them."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        """Return the loss of a micro-batch."""
        assert isinstance(self.compute_loss_func, StepLoss)
        self.compute_loss_func.weights = inputs.pop("weights", None)
        return super().compute_loss(model, inputs, *more, **named)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Only take float16's scale off: the norm would read and write all gradients once more."""
        self.accelerator.unscale_gradients()
        return grad_norm


def on_trainer(
    leg: Leg,
    collate: Callable[[Any], dict[str, torch.Tensor]],
    loss: Callable[..., torch.Tensor],
    count: Callable[[Any], float] | None = None,
) -> Trainer:
    """Return a Trainer over the remaining rows, with any collator and loss.

    Args:
        leg: the steps.
        collate: turns rows of a micro-batch into tensors, labels included.
        loss: of (outputs, labels, num_items_in_batch), and of weights if the batch has some.
        count: of the rows of a step, what their loss is divided by; else its number of labels.
    """
    plan, model = leg.plan, leg.trained.model
    stream = stream_of(plan, leg.stage, leg.first)
    step_loss = StepLoss(leg, stream, loss, count)
    world = plan.devices.world
    built = WeighingTrainer(
        model=sharding.AdapterForTrainer(model) if plan.devices.sharded else model,
        args=arguments(TrainingArguments, settings(plan, leg.steps)),
        train_dataset=stream if world == 1 else RankStream(stream, plan.micro_batch_size, world),
        data_collator=collate,
        compute_loss_func=step_loss,
        callbacks=[LossCallback(step_loss)],
        optimizers=(leg.optimizer, leg.schedule),
    )
    built.remove_callback(PrinterCallback)
    if built.accelerator.num_processes != world:
        raise ranks.wrong_world(world, built.accelerator.num_processes)
    return built


def arguments(kind: type[Arguments], fields: dict[str, Any]) -> Arguments:
    """Return a Trainer's arguments, for a single device in this process.

    With several GPUs in sight the Trainer would put the model into `DataParallel`, which gives each
    a part of the micro-batch: packed rows have only one sequence to give.
    """
    made = kind(**fields)
    made._n_gpu = min(made.n_gpu, 1)
    return made


def settings(plan: Plan, steps: int) -> dict[str, Any]:
    """Return the fields of TrainingArguments for any task, with saving and logging off."""
    return {
        "output_dir": str(plan.output),
        "max_steps": steps,
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_strategy": "no",
        "eval_strategy": "no",
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "seed": plan.recipe.run.seed,
        "use_cpu": plan.device == "cpu",
        "bf16": plan.dtype == "bfloat16",
        "fp16": plan.dtype == "float16",
        "disable_tqdm": True,
        "dataloader_pin_memory": plan.device != "cpu",
        "report_to": "none",
        # Buffers are the same everywhere. Experts may get no token, and a base may have unused
        # weights.
        "ddp_broadcast_buffers": False,
        "ddp_find_unused_parameters": not plan.method.adapter or bool(plan.setting.experts),
    }
