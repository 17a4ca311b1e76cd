"""trl's trainers: the model is lent to them the way they need it, and restored afterwards.

What trl does to its model, and what this module does about it:

- It adds an adapter "ref", a copy of the trainable one when the trainer is made, and measures the
  KL from it. In a resumed run that would be the KL from the checkpoint. So "ref" is set to the
  reference policy; if that is the bare base, "ref" is removed, and trl then measures with the
  adapter disabled.
- It replaces the base's forward by one that can skip logits, names the model after itself, and
  writes token ids into the base's configurations. All this is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import datasets
import torch
from transformers import GenerationConfig, PrinterCallback

from tuner.tasks import rollouts, sft
from tuner.tasks.sft import Arguments

if TYPE_CHECKING:
    from transformers import Trainer

    from tuner.plan.plan import Plan

# The name that trl uses.
TRL_REFERENCE = "ref"
_ON_THE_BASE = ("forward", "model_tags", "generation_config")


class TrlRun:
    """A trainer of trl on a model that is lent to it.

    Args:
        plan: has the tokens that end an answer.
        model: a peft model.
        build: makes the trainer.
    """

    def __init__(self, plan: Plan, model: Any, build: Callable[[], Trainer]) -> None:
        self.plan, self.model, self.build = plan, model, build

    def train(self) -> None:
        """Make the trainer, run its steps, and take the model back."""
        with self.lending() as trainer:
            trainer.train()

    @contextmanager
    def lending(self) -> Iterator[Trainer]:
        """Yield the trainer; the model is restored when the block ends."""
        network = self.model.get_base_model()
        own = {name: network.__dict__[name] for name in _ON_THE_BASE if name in network.__dict__}
        ids = {key: value for key, value in vars(network.config).items() if "_token_id" in key}
        # Everything that ends an answer: a base's own file may list less, or set a top_k.
        network.generation_config = GenerationConfig(eos_token_id=rollouts.stops(self.plan))
        try:
            with _no_bars():
                trainer = self.build()
            trainer.remove_callback(PrinterCallback)
            refer_to_start(self.model)
            yield trainer
        finally:
            if TRL_REFERENCE in self.model.peft_config:
                self.model.delete_adapter(TRL_REFERENCE)
            for name in _ON_THE_BASE:
                network.__dict__.pop(name, None)
            network.__dict__.update(own)
            vars(network.config).update(ids)


def refer_to_start(model: Any) -> None:
    """Make trl's reference the reference policy, whatever the policy is by now."""
    if TRL_REFERENCE not in model.peft_config:
        return
    if rollouts.REFERENCE not in model.peft_config:
        model.delete_adapter(TRL_REFERENCE)
        return
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in own.items():
            if f".{rollouts.REFERENCE}." in name:
                own[name.replace(f".{rollouts.REFERENCE}.", f".{TRL_REFERENCE}.")].copy_(tensor)


def arguments(kind: type[Arguments], plan: Plan, steps: int, **own: Any) -> Arguments:
    """Return a trl configuration for `steps` steps: as in supervised tuning, plus `own`.

    Dropout is off, so that the ratio of the first update is 1 and the reference is exact. Logs go
    to the callbacks at every step.
    """
    logs = {"logging_strategy": "steps", "logging_steps": 1}
    fields = {**sft.settings(plan, steps), **logs, "disable_dropout": True, **own}
    return sft.arguments(kind, fields)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the progress bars of datasets."""
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not shown:
            datasets.enable_progress_bars()
